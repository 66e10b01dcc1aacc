# For guests, as a module of theirs: the agent by which a node speaks to them, begun when everything else is up.
{ config, lib, ... }:
let
  cfg = config.services.blixard-agent;
in
{
  options.services.blixard-agent = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether this guest has the agent of Blixard: a machine of functions needs it.";
    };
    package = lib.mkOption {
      type = lib.types.package;
      description = "The agent, of the release that the nodes have: `packages.agent` of the flake.";
    };
  };
  config = lib.mkIf cfg.enable {
    boot.kernelModules = [ "virtio_console" ]; # what it is spoken to by
    boot.initrd.kernelModules = [ "virtio_mmio" "virtio_blk" ]; # a node's microvm has no PCI
    systemd.services.blixard-agent = {
      description = "Agent of Blixard";
      # The memory that clones of this guest begin with is taken after it has begun.
      wantedBy = [ "multi-user.target" ];
      after = [ "multi-user.target" ];
      path = [ "/run/wrappers" "/run/current-system/sw" ];
      serviceConfig = {
        ExecStart = "${cfg.package}/bin/blixard-agent";
        Restart = "always";
        KillMode = "process"; # what it runs for its node outlives it
        OOMScoreAdjust = -900;
      };
    };
  };
}
