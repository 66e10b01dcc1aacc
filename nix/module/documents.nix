# What is declared, as documents of `blixard apply`.
{ config, lib, ... }:
let
  cfg = config.services.blixard;
  blixard = import ./lib.nix { inherit lib; };
  inherit (blixard) document functionDocuments machineDocuments said size;
  inherit (lib) concatLists mapAttrsToList mkOption optional types;

  mark = { managed-by = cfg.apply.owner; };
  marked = d: d // { labels = (d.labels or { }) // mark; };

  networkDocument = name: n: document {
    kind = "Network"; inherit name; inherit (n) project labels;
    spec = said { inherit (n) subnet gateway mode; } // n.settings;
  };
  volumeDocument = name: v: document {
    kind = "Volume"; inherit name; inherit (v) project labels;
    spec = said ({ inherit (v) node; } // size "size" v.size) // v.settings;
  };
  quotaDocument = name: spec: document { kind = "Quota"; inherit name spec; };
  nodeSpec = said { inherit (cfg) role; failure_domain = cfg.cluster.failureDomain; inherit (cfg.cluster) labels; };

  documents = map marked (
    optional (nodeSpec != { }) (document { kind = "Node"; name = cfg.nodeName; spec = nodeSpec; })
    ++ mapAttrsToList quotaDocument cfg.preseed.quotas
    ++ concatLists (mapAttrsToList
      (project: p:
        optional (p.quota != { }) (quotaDocument project p.quota)
        ++ concatLists (mapAttrsToList (kind: mapAttrsToList (name: spec: document { inherit kind name project spec; })) p.objects))
      cfg.preseed.projects)
    ++ mapAttrsToList networkDocument (cfg.preseed.networks // cfg.networks)
    ++ mapAttrsToList volumeDocument cfg.storage.volumes
    ++ concatLists (mapAttrsToList machineDocuments cfg.machines)
    ++ concatLists (mapAttrsToList functionDocuments cfg.functions)
    ++ map document cfg.manifests
  );
in
{
  options.services.blixard.documents = mkOption {
    type = types.listOf (types.attrsOf types.unspecified);
    readOnly = true;
    internal = true;
    description = "What is declared, as documents.";
  };
  config.services.blixard = { inherit documents; };
}
