# What only this host is: put its hardware-configuration.nix here.
{
  networking.hostName = "one";
  fileSystems."/" = { device = "/dev/disk/by-label/nixos"; fsType = "ext4"; };
  boot.loader.systemd-boot.enable = true;
  system.stateVersion = "25.11";
}
