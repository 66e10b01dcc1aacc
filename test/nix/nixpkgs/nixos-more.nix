# Options of hosts that the templates and examples set besides.
{ config, lib, ... }:
let
  failed = builtins.filter (a: !a.assertion) config.assertions;
  any = lib.mkOption { type = lib.types.attrsOf lib.types.unspecified; default = { }; };
in
{
  options = {
    fileSystems = any;
    # What `nix flake check` asks of a host.
    system.build.toplevel = lib.mkOption {
      type = lib.types.unspecified;
      default =
        if failed != [ ] then throw (builtins.head failed).message
        else derivation { name = "host"; system = "x86_64-linux"; builder = "/bin/sh"; files = builtins.toJSON (builtins.mapAttrs (_: f: f.text) config.environment.etc); };
    };
    boot.loader.grub = any;
    boot.loader.systemd-boot = any;
    services.nginx = any;
    services.postgresql = any;
    nixpkgs = any;
    security.acme = any;
    systemd.units = lib.mkOption { type = lib.types.attrsOf lib.types.unspecified; default = { "blixard.service".text = ""; }; };
    virtualisation.vlans = lib.mkOption { type = lib.types.listOf lib.types.int; default = [ 1 ]; };
    networking.useDHCP = lib.mkOption { type = lib.types.bool; default = true; };
    microvm = lib.mkOption {
      default = { };
      type = lib.types.submodule {
        freeformType = lib.types.attrsOf lib.types.unspecified;
        options.vcpu = lib.mkOption { type = lib.types.int; default = 1; };
        options.mem = lib.mkOption { type = lib.types.int; default = 512; };
        options.declaredRunner = lib.mkOption { type = lib.types.unspecified; default = { outPath = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-microvm"; type = "derivation"; name = "microvm"; }; };
      };
    };
  };
}
