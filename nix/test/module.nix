# The module within all of NixOS: a host with most of its options is evaluated, and what it renders is looked at by the
# daemon itself.
{ lib, nixpkgs, pkgs, system, module }:
let
  host = nixpkgs.lib.nixosSystem {
    inherit system;
    modules = [
      module
      {
        boot.loader.grub.enable = false;
        fileSystems."/" = { device = "none"; fsType = "tmpfs"; };
        system.stateVersion = "25.11";
        networking.hostName = "one";
        services.blixard = {
          enable = true;
          cluster = { bootstrap = true; name = "home"; };
          openFirewall = true;
          settings.body_bytes_max = "256MiB";
          networks.back.subnet = "10.77.0.0/24";
          machines.db = { image = "postgres"; memory = "1GiB"; interfaces = [ "back" ]; };
          backup.enable = true;
          drainOnShutdown = true;
        };
      }
    ];
  };
  inherit (host) config;
  wrong = lib.filter (a: !a.assertion) config.assertions;
in
assert lib.assertMsg (wrong == [ ]) (lib.concatMapStringsSep "\n" (a: a.message) wrong);
assert config.systemd.services.blixard.serviceConfig.KillMode == "process";
assert lib.elem 7421 config.networking.firewall.allowedTCPPorts;
pkgs.runCommand "blixard-module"
{
  passAsFile = [ "settings" ];
  settings = config.environment.etc."blixard/blixard.yaml".text;
  unit = config.systemd.units."blixard.service".text;
} ''
  ${config.services.blixard.package}/bin/blixard server --config "$settingsPath" --check-config
  printf '%s\n' "$unit" > $out
''
