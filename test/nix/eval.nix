# What the module makes of a configuration: `nix-instantiate --eval --strict --json --arg module ./cases/x.nix`.
{ module, of ? ../../nix/module, lib ? import ./lib, pkgs ? import ./pkgs.nix }:
let
  evaluated = lib.evalModules {
    modules = [ ./nixos.nix of { _module.args = { inherit pkgs; }; } module ];
  };
  inherit (evaluated) config;
  inherit (builtins) attrNames concatStringsSep filter isBool isList map toString;

  value = x: if isBool x then (if x then "true" else "false") else toString x;
  lines = section: concatStringsSep "" (map
    (name: let x = section.${name}; in
      if isList x then concatStringsSep "" (map (y: "${name}=${value y}\n") x) else "${name}=${value x}\n")
    (attrNames section));
  # As NixOS writes it, where an order is left to us: by name.
  unit = name: s: ''
    # ${name}.service
    [Unit]
    ${lines ({ Description = s.description; Documentation = s.documentation; Wants = s.wants; Requires = s.requires; After = s.after; } // s.unitConfig)}
    [Service]
    ${lines s.serviceConfig}${concatStringsSep "" (map (n: "Environment=${n}=${s.environment.${n}}\n") (attrNames s.environment))}Path=${lib.makeBinPath s.path}
    Triggers=${toString s.restartTriggers}
    restartIfChanged=${value s.restartIfChanged} stopIfChanged=${value s.stopIfChanged}${if s.startAt == [ ] then "" else "\nstartAt=${toString s.startAt}"}
    [Install]
    ${lines { WantedBy = s.wantedBy; }}'';
  services = config.systemd.services;
in
{
  units = builtins.mapAttrs unit services;
  scripts = builtins.mapAttrs (_: s: { inherit (s) script preStop; }) services;
  files = builtins.mapAttrs (_: file: file.text) config.environment.etc;
  host = {
    inherit (config.networking.firewall) allowedTCPPorts allowedUDPPorts extraForwardRules interfaces;
    inherit (config.networking.dhcpcd) denyInterfaces;
    inherit (config.networking.networkmanager) unmanaged;
    inherit (config.boot) kernelModules;
    inherit (config.boot.kernel) sysctl;
    inherit (config.systemd.tmpfiles) rules;
    inherit (config.users) users groups;
    nix = config.nix.settings;
    inherit (config.services.prometheus) scrapeConfigs;
    timers = builtins.mapAttrs (_: t: t.timerConfig) config.systemd.timers;
  };
  inherit (config) warnings;
  failed = map (a: a.message) (filter (a: !a.assertion) config.assertions);
}
