{
  description = "A Blixard function";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
  inputs.blixard.url = "git+https://git.example.org/blixard"; # where you have it from
  inputs.blixard.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { self, nixpkgs, blixard }:
    let
      pkgs = nixpkgs.legacyPackages.x86_64-linux;
      hello = blixard.lib.buildFunction pkgs {
        name = "hello";
        src = self;
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
          language = "assemblyscript";
          routes.all.path = "/hello";
        }));
      };

      devShells.x86_64-linux.default = blixard.devShells.x86_64-linux.default;
    };
}
