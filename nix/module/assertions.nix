# What cannot be so is said when the system is built, not when a node starts.
{ config, lib, ... }:
let
  cfg = config.services.blixard;
  blixard = import ./lib.nix { inherit lib; };
  inherit (blixard) didYouMean has problemsOfDocument tables;
  inherit (lib)
    any attrNames concatLists concatMap concatMapStringsSep concatStringsSep elem filter hasPrefix length mapAttrsToList mkIf
    optional optionals;

  that = assertion: message: { inherit assertion; message = "services.blixard: ${message}"; };
  given = list: length (filter (x: x != null) list);

  isInStore = path: path != null && hasPrefix builtins.storeDir (toString path);
  secretFiles = [
    { name = "cluster.joinTokenFile"; path = cfg.cluster.joinTokenFile; }
    { name = "tracing.headersFile"; path = cfg.tracing.headersFile; }
    { name = "nixStore.readTokenFile"; path = cfg.nixStore.readTokenFile; }
    { name = "nixStore.uploadTokenFile"; path = cfg.nixStore.uploadTokenFile; }
    { name = "gateway.tls.keyFile"; path = cfg.gateway.tls.keyFile; }
    { name = "nixStore.tls.keyFile"; path = cfg.nixStore.tls.keyFile; }
    { name = "environmentFile"; path = cfg.environmentFile; }
  ]
  ++ mapAttrsToList (name: path: { name = "credentials.${name}"; inherit path; }) cfg.credentials
  ++ mapAttrsToList (name: s: { name = "secrets.${name}.file"; path = s.file; }) cfg.secrets;

  unknown = filter (name: !(tables.options ? ${name})) (attrNames cfg.settings);

  # What Firecracker does not have: the driver refuses it, and microvm.nix does.
  firecracker = name: m:
    let guest = if m.evaluatedConfig == null then { } else m.evaluatedConfig.microvm; in
    map (what: that false "machines.${name}: Firecracker has no ${what}") (
      optional (m.shares != [ ]) "shares of folders (virtiofs): leave `shares` out, or take another hypervisor"
      ++ optional (m.image != null && m.interfaces == [ ] && m.publish != [ ]) "user-mode network: `publish` needs a network in `interfaces`"
      ++ optional (m.cpus != null && m.cpus > 32) "more than 32 cpus"
      ++ optional (m.settings.machine_type or "microvm" != "microvm") "PCs: `machine_type` must be microvm"
      ++ optional (m.settings ? firmware) "firmware: it boots kernels alone"
      ++ optional (guest.shares or [ ] != [ ]) "shares: `microvm.shares` must be empty; the store goes onto a disk (`microvm.storeOnDisk`)"
      ++ optional (m.devices != [ ] || guest.devices or [ ] != [ ]) "devices of the host: leave `devices` and `microvm.devices` empty"
      ++ optional (guest.balloon or false) "balloon that microvm.nix uses: `microvm.balloon` must be off"
      ++ optional (guest.hotplugMem or 0 != 0) "memory that is plugged in: `microvm.hotplugMem` must be 0"
      ++ optional (guest.credentialFiles or { } != { }) "credentials by the VMM: `microvm.credentialFiles` must be empty"
      ++ optional (any (i: i.type or "tap" != "tap") (guest.interfaces or [ ])) "interfaces but taps: `microvm.interfaces.*.type` must be \"tap\"");

  hypervisorOf = m:
    if m.hypervisor != null then m.hypervisor
    else if m.evaluatedConfig != null then m.evaluatedConfig.microvm.hypervisor or null
    else null;

  ofMachine = name: m:
    [
      # A flake and a configuration say what the runner is.
      (that (given [ m.image m.runner ] == 1 && given [ m.flake m.config m.image ] <= 1)
        "machines.${name} must have exactly one of `image`, `runner`, `flake` and `config`; it has ${toString (given [ m.image m.flake m.config ] + (if m.runner != null && m.flake == null && m.config == null then 1 else 0))}")
      (that (m.config == null || cfg.microvmModule != null)
        "machines.${name}.config needs `services.blixard.microvmModule`, the module of microvm.nix for guests (microvm.nixosModules.microvm)")
      (that (m.runner == null || has "Machine" "runner")
        "machines.${name}: this version of Blixard takes no runners of microvm.nix in manifests; give it an `image`")
      (that (m.placement.node != cfg.nodeName || m.hypervisor == null || m.runner != null || elem m.hypervisor cfg.hypervisors)
        "machines.${name} is to run under ${toString m.hypervisor} on this node, which is not among `hypervisors`")
    ]
    ++ optionals (m.runner != null) (map
      (what: that false "machines.${name}.${what}: a machine with a runner has no disk and no agent of Blixard's, and says that in its own configuration")
      (filter (what: m.${what} != null && m.${what} != [ ] && m.${what} != { }) [ "volumes" "health" "shares" "environment" "sshKeys" "hostname" ]))
    ++ optionals (hypervisorOf m == "firecracker") (firecracker name m);

  ofFunction = name: f:
    [
      (that (given [ f.source f.wasm f.flake f.runner ] == 1)
        "functions.${name} must have exactly one of `source`, `wasm`, `flake` and `runner`; it has ${toString (given [ f.source f.wasm f.flake f.runner ])}")
      (that (f.runner == null || f.settings ? command || f.settings ? handler)
        "functions.${name}.runner is a machine, and nothing says what serves calls in it: set `settings.command`")
    ]
    ++ mapAttrsToList
      (alias: target: that ((target.version != null) != (target.weights != { }))
        "functions.${name}.aliases.${alias} must have either a `version` or `weights`")
      f.aliases;

  isName = name: builtins.match "[a-z]([a-z0-9-]{0,61}[a-z0-9])?" name != null;
in
{
  config = mkIf cfg.enable {
    assertions =
      [
        (that (!(cfg.cluster.bootstrap && cfg.cluster.joinTokenFile != null))
          "a node either begins a cluster (`cluster.bootstrap`) or joins one (`cluster.joinTokenFile`): it cannot do both. Keep `bootstrap` on one node, and give the others the token that `blixard node token create` prints there")
        (that (cfg.cluster.joinAddresses == [ ] || cfg.cluster.joinTokenFile != null)
          "`cluster.joinAddresses` says whom to ask, but nothing says why this node should be let in: set `cluster.joinTokenFile` to a file with what `blixard node token create` prints")
        (that (lib.mod cfg.cluster.servers 2 == 1)
          "`cluster.servers` is ${toString cfg.cluster.servers}: an even number of servers survives no more losses than one server less, and is one more that can fail. Take 1, 3 or 5")
        (that (!(cfg.cluster.bootstrap && cfg.role == "worker"))
          "the node that begins a cluster is its first server: `role` cannot be \"worker\" where `cluster.bootstrap` is set")
        (that (isName cfg.nodeName)
          "`nodeName` is \"${cfg.nodeName}\", but names of nodes are small letters, digits and dashes, begin with a letter and have at most 63 of them; set `networking.hostName` or `services.blixard.nodeName`")
        (that (isName cfg.apply.owner) "`apply.owner` is \"${cfg.apply.owner}\", which is no name: small letters, digits and dashes, at most 63")
        (that (cfg.nixStore.substitute == null || cfg.nixStore.cacheAddress != null)
          "`nixStore.substitute` has Nix on this host ask the node, which serves its store only with `nixStore.cacheAddress`")
        (that ((cfg.gateway.tls.certificateFile == null) == (cfg.gateway.tls.keyFile == null))
          "HTTPS needs both `gateway.tls.certificateFile` and `gateway.tls.keyFile`")
        (that ((cfg.nixStore.tls.certificateFile == null) == (cfg.nixStore.tls.keyFile == null))
          "HTTPS needs both `nixStore.tls.certificateFile` and `nixStore.tls.keyFile`")
        (that (cfg.gateway.tls.listenAddress == null || cfg.gateway.tls.certificateFile != null)
          "`gateway.tls.listenAddress` has no effect without `gateway.tls.certificateFile`")
        (that (cfg.nixStore.cacheAddress != null || given [ cfg.nixStore.tls.certificateFile cfg.nixStore.readTokenFile cfg.nixStore.uploadTokenFile ] == 0)
          "`nixStore.tls`, `nixStore.readTokenFile` and `nixStore.uploadTokenFile` have no effect without `nixStore.cacheAddress`")
        (that (!cfg.metrics.scrape || config.services.prometheus.enable)
          "`metrics.scrape` has no effect without the Prometheus of this host: set `services.prometheus.enable`, or leave it to one elsewhere")
        (that (cfg.user == "root" || !(elem "firecracker" cfg.hypervisors))
          "Firecracker machines need networks, and those a daemon that is root: set `user` to \"root\", or take \"firecracker\" out of `hypervisors`")
      ]
      ++ map
        (secret: that (!(isInStore secret.path))
          "`${secret.name}` is in the Nix store, which everybody on this host can read. Write the path as a text (\"/run/keys/...\"), not as a path of Nix")
        secretFiles
      ++ map
        (name: that false "`settings.${name}` is no option of the daemon${didYouMean name (attrNames tables.options)}")
        unknown
      ++ concatLists (mapAttrsToList ofMachine cfg.machines)
      ++ concatLists (mapAttrsToList ofFunction cfg.functions)
      ++ map (problem: that false problem)
        (map (project: "`${project}' is no name of a project: small letters, digits and dashes, at most 63")
          (filter (project: !(isName project)) (blixard.projectsOf cfg.documents))
        ++ filter (problem: builtins.match ".*: `(image|module)' must be said" problem == null) (concatMap problemsOfDocument cfg.documents));

    warnings =
      optional (config.networking.firewall.enable && config.networking.firewall.backend or "" == "firewalld")
        "services.blixard: firewalld is not told of bridges of machines: give bx+ a zone with the services dhcp and dns"
      ++ optional (cfg.user != "root")
        "services.blixard: as ${cfg.user} the daemon cannot give each runner and machine a user id of its own; they are confined less"
      ++ optional (cfg.drainOnShutdown && !cfg.cluster.bootstrap && cfg.cluster.joinTokenFile == null)
        "services.blixard: `drainOnShutdown` moves machines to other nodes, and this node is in no cluster that is known here";
  };
}
