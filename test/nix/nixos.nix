# A stand-in for the options of NixOS that the module sets, with their real paths and types.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  any = types.unspecified;
  option = type: default: mkOption { inherit type default; };
  # What NixOS takes in a unit: names with their kind, and words or lists of words.
  names = types.listOf (types.strMatching "[a-zA-Z0-9@%:_.-]+\\.(service|socket|target|timer|mount|path|slice)");
  word = types.oneOf [ types.bool types.int types.str ];
  words = types.attrsOf (types.either word (types.listOf word));
  unit = types.submodule ({ name, ... }: {
    options = {
      description = option types.str "";
      documentation = option (types.listOf types.str) [ ];
      wantedBy = option names [ ];
      wants = option names [ ];
      requires = option names [ ];
      after = option names [ ];
      path = option (types.listOf (types.either types.package types.str)) [ ];
      environment = option (types.attrsOf types.str) { };
      restartTriggers = option (types.listOf any) [ ];
      restartIfChanged = option types.bool true;
      stopIfChanged = option types.bool true;
      startAt = option (types.either types.str (types.listOf types.str)) [ ];
      script = option types.lines "";
      preStop = option types.lines "";
      unitConfig = option words { };
      serviceConfig = option words { };
    };
  });
  ports = {
    allowedTCPPorts = option (types.listOf types.port) [ ];
    allowedUDPPorts = option (types.listOf types.port) [ ];
  };
in
{
  options = {
    assertions = option (types.listOf any) [ ];
    warnings = option (types.listOf types.str) [ ];
    system.stateVersion = option types.str "";
    environment.systemPackages = option (types.listOf any) [ ];
    environment.etc = option
      (types.attrsOf (types.submodule ({ name, config, ... }: {
        options.text = option (types.nullOr types.lines) null;
        options.source = mkOption { type = types.path; };
        config.source = lib.mkDefault "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-${builtins.hashString "md5" (builtins.unsafeDiscardStringContext config.text)}";
      })))
      { };
    systemd.package = option any { outPath = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-systemd"; };
    systemd.services = option (types.attrsOf unit) { };
    systemd.tmpfiles.rules = option (types.listOf types.str) [ ];
    users.users = option (types.attrsOf (types.attrsOf any)) { };
    users.groups = option (types.attrsOf (types.attrsOf any)) { };
    boot.kernelModules = option (types.listOf types.str) [ ];
    boot.kernel.sysctl = option (types.attrsOf (types.either types.int types.str)) { };
    nix.enable = option types.bool true;
    nix.package = option any { outPath = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-nix"; };
    nix.settings = option (types.attrsOf any) { };
    networking.hostName = option types.str "nixos";
    networking.dhcpcd.denyInterfaces = option (types.nullOr (types.listOf types.str)) null;
    networking.networkmanager.unmanaged = option (types.listOf types.str) [ ];
    networking.nftables.enable = option types.bool false;
    networking.firewall = ports // {
      enable = option types.bool true;
      backend = mkOption { type = types.enum [ "iptables" "nftables" "firewalld" ]; default = if config.networking.nftables.enable then "nftables" else "iptables"; };
      filterForward = option types.bool false;
      extraForwardRules = option types.lines "";
      interfaces = option (types.attrsOf (types.submodule { options = ports; })) { };
    };
    systemd.timers = option (types.attrsOf (types.submodule { options.timerConfig = option words { }; })) { };
    services.prometheus.enable = option types.bool false;
    services.prometheus.scrapeConfigs = option (types.listOf (types.attrsOf any)) [ ];
    virtualisation.memorySize = option types.int 1024;
  };
}
