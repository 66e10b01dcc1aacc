{
  description = "Functions that call each other by queues and streams, over a server and two workers";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
  inputs.blixard.url = "git+https://git.example.org/blixard"; # where you have it from
  inputs.blixard.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { self, nixpkgs, blixard }:
    let
      cluster = blixard.lib.mkCluster {
        name = "services";
        servers = 1;
        nodes = {
          head = { address = "10.0.1.1"; bootstrap = true; };
          left = { address = "10.0.1.2"; role = "worker"; labels.zone = "left"; };
          right = { address = "10.0.1.3"; role = "worker"; labels.zone = "right"; };
        };
        module.services.blixard = {
          gateway.listenAddress = "0.0.0.0:7480";
          tracing = { endpoint = "http://10.0.1.9:4318"; samplePercent = 10; };
          metrics.scrape = true;
        };
      };

      # All services of the shop are declared at the server; every node runs them.
      services = {
        services.blixard = {
          secrets.payment-key = { project = "shop"; file = "/run/keys/payment-key"; };
          preseed.projects.shop = {
            quota = { functions = 20; requests_per_second = 500; };
            objects = {
              Queue.orders = { visibility = "45s"; dead_letter = "lost-orders"; };
              Queue.lost-orders = { };
              Stream.clicks.partitions = 4;
            };
          };
          functions = {
            checkout = {
              project = "shop";
              wasm = ./service.wasm;
              language = "rust";
              secrets.PAYMENT_KEY = "payment-key";
              limits = { memory = "64MiB"; timeout = "5s"; concurrency_max = 50; };
              routes.all = { path = "/checkout"; methods = [ "POST" ]; body_bytes_max = 65536; };
              settings.async = { retries = 5; dead_letter = "lost-orders"; };
            };
            ship = {
              project = "shop";
              wasm = ./service.wasm;
              language = "rust";
              triggers.orders = { kind = "queue"; settings.queue = "orders"; batch_size = 10; concurrency_max = 4; };
              triggers.nightly = { kind = "cron"; settings = { schedule = "0 3 * * *"; timezone = "Europe/Berlin"; }; };
            };
            count = {
              project = "shop";
              wasm = ./service.wasm;
              language = "rust";
              triggers.clicks = { kind = "stream"; settings = { stream = "clicks"; }; batch_size = 100; };
            };
          };
        };
      };
      host = name: nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          blixard.nixosModules.default
          cluster.${name}
          {
            networking.hostName = name;
            services.prometheus.enable = true;
            fileSystems."/" = { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; };
            boot.loader.systemd-boot.enable = true;
            system.stateVersion = "25.11";
          }
        ] ++ nixpkgs.lib.optional (name == "head") services;
      };
    in
    {
      nixosConfigurations = nixpkgs.lib.genAttrs [ "head" "left" "right" ] host;
    };
}
