{
  description = "A machine of microvm.nix under Blixard";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
  inputs.microvm.url = "github:microvm-nix/microvm.nix";
  inputs.microvm.inputs.nixpkgs.follows = "nixpkgs";
  inputs.blixard.url = "git+https://git.example.org/blixard"; # where you have it from
  inputs.blixard.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { self, nixpkgs, microvm, blixard }: {
    # A node has to allow runners: services.blixard.settings.machine_runner_folders = "/nix/store".
    #
    #   blixard network create lan --subnet 10.99.0.0/24
    #   blixard vm create web --flake .#web --network lan
    nixosConfigurations.web = nixpkgs.lib.nixosSystem {
      system = "x86_64-linux";
      modules = [
        microvm.nixosModules.microvm
        ({ pkgs, ... }: {
          networking.hostName = "web";
          microvm = {
            hypervisor = "cloud-hypervisor";
            vcpu = 1;
            mem = 512;
            interfaces = [ { type = "tap"; id = "web"; mac = "02:00:00:00:00:01"; } ];
          };
          services.nginx.enable = true;
          networking.firewall.allowedTCPPorts = [ 80 ];
          users.users.root.password = "";
          system.stateVersion = "25.11";
        })
      ];
    };

    # nix build .#manifest && blixard apply -f result
    packages.x86_64-linux.manifest = nixpkgs.legacyPackages.x86_64-linux.writeText "web.yaml" (blixard.lib.toManifest (
      blixard.lib.mkDocuments { config.networks.lan.subnet = "10.99.0.0/24"; }
      ++ blixard.lib.mkRunnerManifest {
        name = "web";
        nixosConfiguration = self.nixosConfigurations.web;
        interfaces = [ "lan" ]; # a network for each tap
      }
    ));
  };
}
