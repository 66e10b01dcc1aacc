# Nothing but the switch.
{
  networking.hostName = "alone";
  services.blixard.enable = true;
}
