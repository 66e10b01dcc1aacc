# A worker that joins, and is no root.
{
  networking.hostName = "two";
  services.blixard = {
    enable = true;
    user = "blixard";
    dataDir = "/srv/blixard";
    role = "worker";
    cluster.joinTokenFile = "/run/keys/join-token";
    cluster.joinAddresses = [ "10.0.0.1:7421" "10.0.0.3:7421" ];
    watchdog.enable = false;
  };
}
