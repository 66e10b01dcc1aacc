{
  description = "Three hosts that are a Blixard cluster";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";
  inputs.blixard.url = "git+https://git.example.org/blixard"; # where you have it from
  inputs.blixard.inputs.nixpkgs.follows = "nixpkgs";

  outputs = { self, nixpkgs, blixard }:
    let
      # `one` begins the cluster; the others find their token, printed by `blixard node token create` there, in
      # /run/keys/blixard-join-token (agenix, sops-nix, or scp).
      cluster = blixard.lib.mkCluster {
        name = "home";
        nodes = {
          one = { address = "10.0.0.1"; bootstrap = true; failureDomain = "rack-1"; };
          two = { address = "10.0.0.2"; failureDomain = "rack-2"; };
          three = { address = "10.0.0.3"; failureDomain = "rack-3"; };
        };
        module.services.blixard.gateway.listenAddress = "0.0.0.0:7480";
      };
      host = name: nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          blixard.nixosModules.default
          cluster.${name}
          ./hosts/${name}.nix
        ];
      };
    in
    {
      nixosConfigurations = nixpkgs.lib.genAttrs [ "one" "two" "three" ] host;
    };
}
