# A guest that is a machine of functions, and what it sets of microvm.nix.
{ lib, ... }:
let
  option = type: lib.mkOption { inherit type; };
in
{
  options = {
    boot.initrd.kernelModules = option (lib.types.listOf lib.types.str);
    networking.useDHCP = option lib.types.bool;
    microvm.hypervisor = option (lib.types.enum [ "qemu" "firecracker" "cloud-hypervisor" ]);
    microvm.storeOnDisk = option lib.types.bool;
  };
  config.services.blixard-agent.package = { name = "agent"; type = "derivation"; outPath = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-agent"; };
}
