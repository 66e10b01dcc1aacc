{
  description = "Blixard: a cloud of functions and microVMs in one binary";

  # Pinned by flake.lock; a flake that uses this one has its own with `inputs.blixard.inputs.nixpkgs.follows = "nixpkgs"`.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [ "x86_64-linux" ];
      forEach = f: lib.genAttrs systems (system: f system (nixpkgs.legacyPackages.${system}));
      part = pkgs: blixard: name: pkgs.runCommand "blixard-${name}" { meta.mainProgram = "blixard-${name}"; } ''
        mkdir -p $out/bin
        cp ${blixard}/libexec/blixard/blixard-${name} $out/bin/
      '';
    in
    {
      packages = forEach (system: pkgs: rec {
        blixard = pkgs.callPackage ./nix/package.nix { };
        default = blixard;
        agent = part pkgs blixard "agent";
        runner = part pkgs blixard "runner";
      });

      overlays.default = import ./nix/overlay.nix;

      nixosModules = rec {
        blixard = { pkgs, lib, ... }: {
          imports = [ ./nix/module ];
          services.blixard.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };
        default = blixard;
        # For guests.
        agent = { pkgs, lib, ... }: {
          imports = [ ./nix/agent.nix ];
          services.blixard-agent.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.agent;
        };
        function.imports = [ agent ./nix/guest.nix ];
      };

      lib = import ./nix/lib.nix { inherit lib; } // {
        # A module built of a project folder by Nix; see nix/function.nix.
        buildFunction = pkgs: import ./nix/function.nix {
          inherit (nixpkgs) lib;
          inherit pkgs;
          blixard = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };
      };

      templates = {
        cluster = { path = ./nix/templates/cluster; description = "Three hosts that are a cluster"; };
        function-c = { path = ./nix/templates/function-c; description = "A function in C"; };
        function-rust = { path = ./nix/templates/function-rust; description = "A function in Rust"; };
        function-assemblyscript = { path = ./nix/templates/function-assemblyscript; description = "A function in AssemblyScript"; };
        machine = { path = ./nix/templates/machine; description = "A machine of microvm.nix"; };
      };

      checks = forEach (system: pkgs: {
        build = self.packages.${system}.default;
        module = import ./nix/test/module.nix { inherit lib nixpkgs pkgs system; module = self.nixosModules.default; };
        cluster = pkgs.testers.runNixOSTest (import ./nix/test/cluster.nix { module = self.nixosModules.default; });
      });

      apps = forEach (system: pkgs: rec {
        blixard = { type = "app"; program = "${self.packages.${system}.default}/bin/blixard"; };
        default = blixard;
      });

      devShells = forEach (system: pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ self.packages.${system}.default ];
          packages = self.packages.${system}.default.passthru.programs ++ [ pkgs.clang-tools pkgs.cppcheck pkgs.nix pkgs.jq pkgs.curl ];
        };
      });
    };
}
