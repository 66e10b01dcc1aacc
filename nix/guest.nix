# For guests of microvm.nix that are machines of functions: what a node can clone, and the agent.
{ lib, ... }:
{
  imports = [ ./agent.nix ];
  services.blixard-agent.enable = true;
  microvm = {
    hypervisor = lib.mkDefault "qemu"; # whose words are read, and whose memory is shared
    storeOnDisk = lib.mkDefault true;
  };
  # What it reaches goes by the agent: it has no interface to wait for.
  networking.useDHCP = lib.mkDefault false;
}
