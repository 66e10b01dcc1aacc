# Three hosts become a cluster; a message is sent at one and received at another, when the first is lost.
{ module }:
{
  name = "blixard-cluster";

  nodes =
    let
      common = { pkgs, ... }: {
        imports = [ module ];
        virtualisation.memorySize = 1024;
        environment.systemPackages = [ pkgs.curl pkgs.jq ];
        services.blixard = {
          enable = true;
          openFirewall = true;
          gateway.listenAddress = "0.0.0.0:7480";
          cluster.name = "test";
        };
      };
      other = address: { lib, ... }: {
        imports = [ common ];
        services.blixard = {
          advertiseAddress = address;
          cluster.joinTokenFile = "/root/join-token";
          cluster.joinAddresses = [ "192.168.1.1:7421" ];
        };
        # Started by the test, when the first node has made a token.
        systemd.services = lib.genAttrs [ "blixard" "blixard-apply" "blixard-machines" ] (_: { wantedBy = lib.mkForce [ ]; });
      };
    in
    {
      one = {
        imports = [ common ];
        services.blixard = {
          advertiseAddress = "192.168.1.1";
          cluster.bootstrap = true;
          preseed.quotas.shop.functions = 3;
          manifests = [ { kind = "Queue"; name = "orders"; } ];
        };
      };
      three = other "192.168.1.2";
      two = other "192.168.1.3";
    };

  testScript = ''
    start_all()
    one.wait_for_unit("blixard-bootstrap.service")
    one.wait_for_unit("blixard-apply.service")
    one.succeed("blixard queue get orders")
    one.succeed("blixard quota show shop")

    for node in (two, three):
        token = one.succeed("blixard node token create --output json | jq -r .token").strip()
        node.succeed(f"umask 077; echo {token} > /root/join-token")
        node.succeed("systemctl start blixard.service")
        node.wait_for_unit("blixard.service")

    one.wait_until_succeeds("blixard cluster status | grep '3 of 3 servers'")
    one.succeed("blixard queue send orders --data one")

    # A daemon that is restarted is back, and so is a host that is lost.
    two.succeed("systemctl restart blixard.service")
    two.wait_until_succeeds("blixard cluster status | grep '3 of 3 servers'")
    one.crash()
    three.wait_until_succeeds("blixard queue receive orders | grep one")
    one.start()
    one.wait_for_unit("blixard.service")
    three.wait_until_succeeds("blixard cluster status | grep '3 of 3 servers'")
  '';
}
