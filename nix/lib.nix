# blixard.lib: what is declared in a flake, as documents for `blixard apply` and as modules for hosts.
#
#   toManifest (mkMachine { name = "web"; image = "nginx"; })        the text of a file
#   (mkCluster { nodes = { one = { ... }; two = { ... }; }; }).one   a NixOS module
{ lib }:
let
  shared = import ./module/lib.nix { inherit lib; };
  inherit (lib) attrNames concatMap filter head mapAttrs optionalAttrs sort;

  # The options of the module, without a host.
  evaluate = { pkgs ? { }, owner ? "flake", config }:
    (lib.evalModules {
      modules = [
        ./module/options.nix
        ./module/workloads.nix
        ./module/documents.nix
        { _module.args = { inherit pkgs; }; }
        { services.blixard = { nodeName = "flake"; defaultNode = null; apply.owner = owner; }; }
        { services.blixard = config; }
      ];
    }).config.services.blixard;

  checked = evaluated:
    let problems = concatMap shared.problemsOfDocument evaluated.documents; in
    if problems == [ ] then evaluated.documents
    else throw "blixard.lib: ${head problems}";

  # Documents of what `config` declares: machines, functions, networks, storage.volumes, preseed, manifests.
  mkDocuments = arguments: checked (evaluate arguments);

  split = arguments: {
    common = builtins.intersectAttrs { pkgs = null; owner = null; } arguments;
    own = removeAttrs arguments [ "pkgs" "owner" "name" ];
  };

  # A machine as documents: { name; image | runner | flake; cpus; memory; ... } as of services.blixard.machines.<name>.
  mkMachine = { name, ... }@arguments:
    let parts = split arguments; in
    mkDocuments (parts.common // { config.machines.${name} = parts.own; });

  # A function as documents: { name; wasm | source | flake | runner; triggers; ... } as of services.blixard.functions.<name>; `source` needs `pkgs`.
  mkFunction = { name, ... }@arguments:
    let parts = split arguments; in
    mkDocuments (parts.common // { config.functions.${name} = parts.own; });

  # A machine that a NixOS configuration with microvm.nix describes, or whose runner is given; its CPUs, its memory and its MACs
  # are those of the configuration.
  mkRunnerManifest = { name, nixosConfiguration ? null, ... }@arguments:
    if !(shared.has "Machine" "runner") then
      throw "blixard.lib.mkRunnerManifest: this version of Blixard takes no runners of microvm.nix in manifests"
    else
      mkMachine (
        removeAttrs arguments [ "nixosConfiguration" ]
        // optionalAttrs (nixosConfiguration != null) { flake.nixosConfigurations.${name} = nixosConfiguration; });

  # Modules of the hosts of a cluster, by the names of its nodes: the first by name, or that with `bootstrap`, begins it.
  #
  #   nodes.<name> = { address; role; failureDomain; labels; settings of services.blixard ... }
  #   joinTokenFile: where each of the others has its token
  mkCluster = { name ? "blixard", nodes, joinTokenFile ? "/run/keys/blixard-join-token", servers ? 3, module ? { } }:
    let
      names = sort (a: b: a < b) (attrNames nodes);
      said = filter (n: nodes.${n}.bootstrap or false) names;
      first = if said != [ ] then head said else head names;
      own = [ "address" "bootstrap" "role" "failureDomain" "labels" ];
    in
    if names == [ ] then throw "blixard.lib.mkCluster: there are no nodes"
    else if builtins.length said > 1 then throw "blixard.lib.mkCluster: ${toString said} all have `bootstrap': one node begins a cluster"
    else mapAttrs
      (node: n: {
        imports = [ module ];
        services.blixard = lib.mkMerge [
          {
            enable = true;
            nodeName = node;
            advertiseAddress = n.address;
            openFirewall = lib.mkDefault true;
            role = n.role or null;
            cluster = {
              inherit name servers;
              failureDomain = n.failureDomain or null;
              labels = n.labels or { };
            } // (if node == first then { bootstrap = true; } else {
              inherit joinTokenFile;
              joinAddresses = map (other: "${nodes.${other}.address}:7421") (filter (other: other != node) names);
            });
          }
          (removeAttrs n own)
        ];
      })
      nodes;
in
{
  inherit mkCluster mkDocuments mkFunction mkMachine mkRunnerManifest;
  # The text of a file for `blixard apply -f`.
  toManifest = shared.render;
}
