{
  description = "A Blixard function";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
  inputs.blixard.url = "git+https://git.example.org/blixard"; # where you have it from
  inputs.blixard.inputs.nixpkgs.follows = "nixpkgs";
  inputs.fenix.url = "github:nix-community/fenix"; # nixpkgs' own rustc has no standard library for WASI
  inputs.fenix.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { self, nixpkgs, blixard, fenix }:
    let
      pkgs = nixpkgs.legacyPackages.x86_64-linux;
      rust = with fenix.packages.x86_64-linux; combine [ stable.cargo stable.rustc targets.wasm32-wasip1.stable.rust-std ];
      hello = blixard.lib.buildFunction pkgs {
        name = "hello";
        src = self;
        packages = [ rust ];
      };
    in
    {
      packages.x86_64-linux = {
        # blixard fn deploy --flake .#hello; or nix build, which leaves result/hello.wasm
        inherit hello;
        default = hello;

        # nix build .#manifest && blixard apply -f result
        manifest = pkgs.writeText "hello.yaml" (blixard.lib.toManifest (blixard.lib.mkFunction {
          name = "hello";
          inherit (hello) wasm;
          language = "rust";
          routes.all.path = "/hello";
        }));
      };

      devShells.x86_64-linux.default = blixard.devShells.x86_64-linux.default;
    };
}
