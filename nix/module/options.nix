# services.blixard: the node.  What is to run on it is in workloads.nix.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.blixard;
  blixard = import ./lib.nix { inherit lib; };
  inherit (blixard) mirror tables;
  inherit (lib) literalExpression mkEnableOption mkOption types;

  text = default: description: mkOption { type = types.str; inherit default description; };
  file = description: mkOption { type = types.nullOr types.str; default = null; inherit description; };
  switch = default: description: mkOption { type = types.bool; inherit default description; };
  hypervisors = [ "qemu" "cloud-hypervisor" "firecracker" ];
  program = name: package: mkOption {
    type = types.nullOr types.package;
    default = if package == null then null else pkgs.${package};
    defaultText = literalExpression (if package == null then "null" else "pkgs.${package}");
    description = "What ${name} is taken from, where it is one of `hypervisors`; null: what comes with `package`.";
  };
in
{
  options.services.blixard = {
    enable = mkEnableOption "Blixard, a cloud of functions and microVMs";

    package = mkOption {
      type = types.package;
      default = pkgs.blixard or (pkgs.callPackage ../package.nix { });
      defaultText = literalExpression "pkgs.blixard";
      description = "Blixard itself.";
    };
    extraPackages = mkOption {
      type = types.listOf types.package;
      default = [ ];
      description = "More programs on the path of the daemon, for example `pkgs.erofs-utils` for images of root archives.";
    };
    user = text "root" ''
      Who the daemon is. Only root can give each runner and each machine a user id and namespaces of its own; anybody else is
      made as a system user, and confines them with what such a user may have.'';
    group = mkOption {
      type = types.str;
      default = cfg.user;
      defaultText = literalExpression "config.services.blixard.user";
      description = "The group of the daemon.";
    };
    dataDir = text "/var/lib/blixard" "Where the node keeps its data.";

    role = mkOption {
      type = types.nullOr (types.enum [ "server" "worker" ]);
      default = null;
      description = "What the node is: a `server` holds the state and may vote, a `worker` follows. Null: as its token and the leader say.";
    };
    nodeName = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = literalExpression "config.networking.hostName";
      description = "Name of this node in the cluster.";
    };
    advertiseAddress = mirror "advertise_address";

    cluster = {
      name = text "blixard" "Name of the cluster that a node with `bootstrap` begins.";
      bootstrap = switch false ''
        Begin the cluster at this node when it is in none. One node of a cluster has this; the others have `joinTokenFile`.'';
      servers = mkOption {
        type = types.ints.between 1 9;
        default = 3;
        description = "How many nodes are to vote; said by the node with `bootstrap`. An odd number.";
      };
      joinAddresses = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "10.0.0.1:7421" ];
        description = "Nodes that are asked to be let in, HOST:PORT, instead of those that the token names.";
      };
      joinTokenFile = file ''
        A file with what `blixard node token create` has printed. Read by systemd (LoadCredential), so the daemon need not be able to; it
        is used once: a node that has joined knows where it belongs, and starts without the file.'';
      failureDomain = mirror "failure_domain";
      labels = mkOption {
        type = types.attrsOf types.str;
        default = { };
        example = { disk = "ssd"; };
        description = "Labels of the node, for constraints of what is placed.";
      };
    };
    topology = {
      region = mirror "region";
      zone = mirror "zone";
      rack = mirror "rack";
    };

    api = {
      listenAddress = mirror "api_address";
      socket = mirror "api_socket";
    };
    raft.listenAddress = mirror "cluster_address";
    gateway = {
      listenAddress = mirror "gateway_address";
      tls = {
        listenAddress = mirror "gateway_tls_address";
        certificateFile = mirror "gateway_tls_certificate";
        keyFile = mirror "gateway_tls_key";
      };
    };
    openFirewall = switch false ''
      Open the ports of `raft.listenAddress`, `gateway.listenAddress`, (with a certificate) `gateway.tls.listenAddress` and `nixStore.cacheAddress`,
      as far as they are not on loopback, and UDP 4789, by which networks of machines reach from node to node.'';

    settings = mkOption {
      type = types.submodule {
        freeformType = types.attrsOf (types.either types.str types.int);
        options = builtins.mapAttrs (name: _: mirror name) tables.options;
      };
      default = { };
      example = { body_bytes_max = "256MiB"; drain_timeout_ms = "30s"; };
      description = ''
        Options of the daemon by their own names. Those that have an option of the module are set by it with mkDefault. A name that the daemon does
        not have is refused when the system is built.'';
    };
    settingsFiles = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "More files with options of the daemon, read in this order after `settings` when it starts; what they say goes before.";
    };
    credentials = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = { otlp-headers = "/run/keys/otlp-headers"; };
      description = ''
        Files that systemd reads for the daemon (LoadCredential): name to path. Inside, they are at
        `/run/credentials/blixard.service/NAME`, which settings can name. They never come into the store.'';
    };
    environmentFile = file "A file with variables for the daemon, NAME=VALUE.";

    hypervisors = mkOption {
      type = types.listOf (types.enum hypervisors);
      default = [ "qemu" ];
      description = "What runs machines here; their programs are put on the path of the daemon.";
    };
    hypervisorPackages = {
      qemu = program "QEMU" null;
      cloud-hypervisor = program "Cloud Hypervisor" "cloud-hypervisor";
      firecracker = program "Firecracker" "firecracker";
    };

    storage.shareFolders = mkOption {
      type = types.listOf types.str;
      default = [ ];
      description = "Folders of this node that machines may share, with what is below them.";
    };
    nixStore = {
      cacheAddress = mirror "nix_cache_address";
      tls = {
        certificateFile = mirror "nix_cache_tls_certificate";
        keyFile = mirror "nix_cache_tls_key";
      };
      readTokenFile = file "A file with the token that reading from there takes; a credential of the daemon. Null: whoever reaches it reads.";
      uploadTokenFile = file "The same for uploading. Null: nobody uploads.";
      trustedKeys = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "build-1:8vK..." ];
        description = "Keys whose signatures this node takes paths by, beside the cluster's own (`blixard store key`).";
      };
      packedBytesMax = mirror "nix_packed_bytes_max";
      substitute = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "blixard-5c1e02a7-1:Yz7...";
        description = ''
          The cluster's key, as `blixard store key` prints it: Nix on this host then asks the node for what it lacks, and takes what that key has
          signed. Needs `cacheAddress`.'';
      };
    };
    resources = {
      reserved = {
        cpuMillis = mirror "reserved_cpu_millis";
        memory = mirror "reserved_memory_bytes";
        disk = mirror "reserved_disk_bytes";
      };
      overcommit = {
        cpuPercent = mirror "overcommit_cpu_percent";
        memoryPercent = mirror "overcommit_memory_percent";
        diskPercent = mirror "overcommit_disk_percent";
      };
    };

    drainOnShutdown = switch false ''
      Move what the node runs to other nodes when the host goes down, and let it take work again when the host is back. Of use in a cluster
      alone; a restart of the daemon is not the host going down.'';
    stopMachinesOnShutdown = switch true ''
      Shut the machines of the node down in order when the host goes down, and start them again when it is back; without it their power is cut.
      Of no effect with `drainOnShutdown`.'';
    drainDeadline = mkOption {
      type = types.strMatching "[0-9]+(ms|s|m|h)";
      default = "10m";
      description = "How long that may take; then what is left is stopped.";
    };
    watchdog = {
      enable = switch true "Let systemd restart the daemon when its main loop has stood still for `interval`; machines go on meanwhile.";
      interval = text "60s" "For how long.";
    };
    metrics.scrape = switch false ''
      Add the node to what the Prometheus of this host (`services.prometheus`) scrapes: `/metrics` is at the address of the API, which listens
      on loopback only. Needs `services.prometheus.enable`.'';
    tracing = {
      endpoint = mirror "otlp_endpoint";
      headersFile = file "A file with lines \"Name: value\" for those requests; a credential of the daemon.";
      authorityFile = mirror "otlp_authority_file";
      compression = mirror "otlp_compression";
      samplePercent = mirror "trace_sample_percent";
    };
    backup = {
      enable = switch false "Save the state and all modules regularly (`blixard cluster backup`).";
      directory = text "/var/backup/blixard" "Where the files go; only root reads them.";
      schedule = text "daily" "When, as systemd.time(7) has it.";
      keep = mkOption {
        type = types.ints.positive;
        default = 7;
        description = "How many of them are kept, the newest ones.";
      };
    };
  };
}
