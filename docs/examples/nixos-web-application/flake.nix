{
  description = "A web application on one NixOS host: nginx in a machine, its API as a function";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
  inputs.blixard.url = "git+https://git.example.org/blixard"; # where you have it from
  inputs.blixard.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { self, nixpkgs, blixard }: {
    nixosConfigurations.web = nixpkgs.lib.nixosSystem {
      system = "x86_64-linux";
      modules = [
        blixard.nixosModules.default
        {
          networking.hostName = "web";
          fileSystems."/" = { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; };
          boot.loader.systemd-boot.enable = true;
          system.stateVersion = "25.11";

          services.blixard = {
            enable = true;
            openFirewall = true;
            gateway.listenAddress = "0.0.0.0:7480";
            gateway.tls = {
              listenAddress = "0.0.0.0:443";
              certificateFile = "/var/lib/acme/example.org/fullchain.pem";
              keyFile = "/var/lib/acme/example.org/key.pem";
            };
            storage.volumes.pages.size = "2GiB";

            networks.front.subnet = "10.80.0.0/24";
            # blixard image pull docker.io/library/nginx --name nginx
            machines.nginx = {
              image = "nginx";
              memory = "256MiB";
              interfaces = [ "front" ];
              volumes = [ "pages:/usr/share/nginx/html" ];
              publish = [ "80:80" ];
              health = "http://:80/";
            };

            # Built elsewhere: `blixard fn build hello` leaves hello/build/hello.wasm.
            functions.hello = {
              wasm = ./hello.wasm;
              language = "c";
              limits = { memory = "32MiB"; timeout = "2s"; };
              env.GREETING = "welcome";
              routes.api = { path = "/api/hello"; methods = [ "GET" ]; rate_limit.requests_per_second = 100; };
            };
          };
        }
      ];
    };
  };
}
