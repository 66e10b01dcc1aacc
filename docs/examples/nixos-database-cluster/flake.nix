{
  description = "Three NixOS hosts that are a cluster, with a database on each and a name over them";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
  inputs.blixard.url = "git+https://git.example.org/blixard"; # where you have it from
  inputs.blixard.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { self, nixpkgs, blixard }:
    let
      addresses = { north = "10.0.0.1"; south = "10.0.0.2"; west = "10.0.0.3"; };
      cluster = blixard.lib.mkCluster {
        name = "databases";
        nodes = builtins.mapAttrs
          (name: address: {
            inherit address;
            bootstrap = name == "north";
            role = "server";
            failureDomain = "site-${name}";
            labels.disk = "nvme";
          })
          addresses;
      };

      # Each host declares its own database; the machine stays where its volume is.
      database = name: {
        services.blixard = {
          resources.reserved.memory = "2GiB";
          drainOnShutdown = true;
          backup = { enable = true; schedule = "hourly"; keep = 48; };
          # blixard image import postgres --root postgres.tar.gz
          machines."db-${name}" = {
            image = "postgres";
            cpus = 2;
            memory = "4GiB";
            volumes = [ { name = "db-${name}"; path = "/var/lib/postgresql"; size = "50GiB"; } ];
            interfaces = [ { network = "databases"; groups = [ "postgres" ]; } ];
            health = "tcp://:5432";
            runStrategy = "Always";
            # A change of its size waits until somebody restarts it.
            restartIfChanged = false;
            settings.eviction_strategy = "restart";
          };
        };
      };
      # What all of them share is declared at one.
      shared = {
        services.blixard = {
          networks.databases.subnet = "10.90.0.0/24";
          preseed.projects.default.objects.SecurityGroup.postgres.rules = [
            { allow = "tcp/5432"; peer = "10.90.0.0/24"; }
            { allow = "icmp"; }
          ];
          preseed.quotas.default = { machines = 12; memory = "64GiB"; };
        };
      };
      host = name: nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          blixard.nixosModules.default
          cluster.${name}
          (database name)
          {
            networking.hostName = name;
            fileSystems."/" = { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; };
            boot.loader.systemd-boot.enable = true;
            system.stateVersion = "25.11";
          }
        ] ++ nixpkgs.lib.optional (name == "north") shared;
      };
    in
    {
      nixosConfigurations = builtins.mapAttrs (name: _: host name) addresses;
    };
}
