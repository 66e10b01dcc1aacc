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

      templates =
        let
          function = language: path: {
            inherit path;
            description = "A function in ${language}";
            welcomeText = "Say in flake.nix where you have Blixard from, then: nix flake lock; blixard fn deploy --flake .#hello";
          };
        in
        {
          cluster = {
            path = ./nix/templates/cluster;
            description = "Three hosts that are a cluster";
            welcomeText = "Say in flake.nix where you have Blixard from and where the hosts are, and put what their hardware needs into hosts/.";
          };
          function-c = function "C" ./nix/templates/function-c;
          function-rust = function "Rust" ./nix/templates/function-rust;
          function-assemblyscript = function "AssemblyScript" ./nix/templates/function-assemblyscript;
          machine = {
            path = ./nix/templates/machine;
            description = "A machine of microvm.nix";
            welcomeText = "Say in flake.nix where you have Blixard from, then: nix flake lock. What to do next is in there, too.";
          };
        };

      checks = forEach (system: pkgs: {
        build = self.packages.${system}.default;
        module = import ./nix/test/module.nix { inherit lib nixpkgs pkgs system; module = self.nixosModules.default; };
        cluster = pkgs.testers.runNixOSTest (import ./nix/test/cluster.nix { module = self.nixosModules.default; });
      });

      apps = forEach (system: pkgs: rec {
        blixard = {
          type = "app";
          program = "${self.packages.${system}.default}/bin/blixard";
          inherit (self.packages.${system}.default) meta;
        };
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
