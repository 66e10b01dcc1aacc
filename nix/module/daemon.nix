# The daemon: its configuration, its unit, and what it needs of the host.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.blixard;
  blixard = import ./lib.nix { inherit lib; };
  inherit (lib)
    concatMap concatStringsSep elem escapeShellArg filter last mapAttrsToList mkDefault mkIf mkMerge mkOverride optional optionalAttrs
    optionals optionalString splitString toInt unique;

  isRoot = cfg.user == "root";
  hasRunners = lib.any (m: m.runner != null) (lib.attrValues cfg.machines);
  # What the module's own options say of the daemon's; `settings` goes before.
  unlessNull = value: mkIf (value != null) (mkDefault value);
  credential = name: "/run/credentials/blixard.service/${name}";

  # As the daemon has it when nothing is said.
  valueOf = name:
    if cfg.settings.${name} or null != null then cfg.settings.${name} else blixard.tables.options.${name}.default;
  portOf = name: toInt (last (splitString ":" (valueOf name)));
  isLocal = name: builtins.match "(127\\..*|localhost|\\[::1]):.*" (valueOf name) != null;
  ports = unique (
    optional (!(isLocal "cluster_address")) (portOf "cluster_address")
    ++ optional (!(isLocal "gateway_address")) (portOf "gateway_address")
    ++ optional (valueOf "gateway_tls_certificate" != "" && !(isLocal "gateway_tls_address")) (portOf "gateway_tls_address")
    ++ optional (valueOf "nix_cache_address" != "" && !(isLocal "nix_cache_address")) (portOf "nix_cache_address"));

  # Bridges of networks of machines are called bx and a number; iptables and nft write that differently, and NixOS refuses
  # ports of interfaces where firewalld is in charge.  Releases before 26.05 have no `backend`.
  firewall = config.networking.firewall.backend or (if config.networking.nftables.enable then "nftables" else "iptables");
  bridges = { nftables = [ "bx*" ]; iptables = [ "bx+" ]; }.${firewall} or [ ];

  credentials =
    cfg.credentials
    // optionalAttrs (cfg.cluster.joinTokenFile != null) { join-token = cfg.cluster.joinTokenFile; }
    // optionalAttrs (cfg.nixStore.readTokenFile != null) { nix-read-token = cfg.nixStore.readTokenFile; }
    // optionalAttrs (cfg.nixStore.uploadTokenFile != null) { nix-upload-token = cfg.nixStore.uploadTokenFile; }
    // optionalAttrs (cfg.tracing.headersFile != null) { otlp-headers = cfg.tracing.headersFile; };
  socket =
    if valueOf "api_socket" == "none" then valueOf "api_address"
    else "unix:${if valueOf "api_socket" == "" then "${cfg.dataDir}/api.sock" else valueOf "api_socket"}";
  # Behind these, the program has on its path what it was packaged with: QEMU, compilers, mkfs.
  programs =
    [ cfg.package ]
    ++ filter (program: program != null) (map (name: cfg.hypervisorPackages.${name}) (unique cfg.hypervisors))
    ++ optional config.nix.enable config.nix.package
    ++ cfg.extraPackages;
  shareFolders = filter (folder: folder != "") (splitString "," (valueOf "machine_share_folders"));
in
{
  options.services.blixard.socket = lib.mkOption {
    type = lib.types.str;
    readOnly = true;
    internal = true;
    description = "Where the API of this node is, as `--addr` takes it.";
  };

  config = mkIf cfg.enable {
    services.blixard = {
      inherit socket;
      settings = {
        data_folder = mkDefault cfg.dataDir;
        node_name = mkDefault cfg.nodeName;
        advertise_address = unlessNull cfg.advertiseAddress;
        failure_domain = unlessNull cfg.cluster.failureDomain;
        region = unlessNull cfg.topology.region;
        zone = unlessNull cfg.topology.zone;
        rack = unlessNull cfg.topology.rack;
        api_address = unlessNull cfg.api.listenAddress;
        api_socket = unlessNull cfg.api.socket;
        cluster_address = unlessNull cfg.raft.listenAddress;
        gateway_address = unlessNull cfg.gateway.listenAddress;
        gateway_tls_address = unlessNull cfg.gateway.tls.listenAddress;
        gateway_tls_certificate = unlessNull cfg.gateway.tls.certificateFile;
        gateway_tls_key = unlessNull cfg.gateway.tls.keyFile;
        join_token_file = mkIf (cfg.cluster.joinTokenFile != null) (mkDefault (credential "join-token"));
        join_addresses = mkIf (cfg.cluster.joinAddresses != [ ]) (mkDefault (concatStringsSep "," cfg.cluster.joinAddresses));
        machine_share_folders = mkIf (cfg.storage.shareFolders != [ ]) (mkDefault (concatStringsSep "," cfg.storage.shareFolders));
        # Runners are programs; the ones that Nix has built are those that may run.
        machine_runner_folders = mkIf hasRunners (mkDefault builtins.storeDir);
        nix_cache_address = unlessNull cfg.nixStore.cacheAddress;
        nix_cache_tls_certificate = unlessNull cfg.nixStore.tls.certificateFile;
        nix_cache_tls_key = unlessNull cfg.nixStore.tls.keyFile;
        nix_read_token_file = mkIf (cfg.nixStore.readTokenFile != null) (mkDefault (credential "nix-read-token"));
        nix_upload_token_file = mkIf (cfg.nixStore.uploadTokenFile != null) (mkDefault (credential "nix-upload-token"));
        nix_trusted_keys = mkIf (cfg.nixStore.trustedKeys != [ ]) (mkDefault (concatStringsSep " " cfg.nixStore.trustedKeys));
        nix_packed_bytes_max = unlessNull cfg.nixStore.packedBytesMax;
        reserved_cpu_millis = unlessNull cfg.resources.reserved.cpuMillis;
        reserved_memory_bytes = unlessNull cfg.resources.reserved.memory;
        reserved_disk_bytes = unlessNull cfg.resources.reserved.disk;
        overcommit_cpu_percent = unlessNull cfg.resources.overcommit.cpuPercent;
        overcommit_memory_percent = unlessNull cfg.resources.overcommit.memoryPercent;
        overcommit_disk_percent = unlessNull cfg.resources.overcommit.diskPercent;
        otlp_endpoint = unlessNull cfg.tracing.endpoint;
        otlp_headers_file = mkIf (cfg.tracing.headersFile != null) (mkDefault (credential "otlp-headers"));
        otlp_authority_file = unlessNull cfg.tracing.authorityFile;
        otlp_compression = unlessNull cfg.tracing.compression;
        trace_sample_percent = unlessNull cfg.tracing.samplePercent;
      };
    };

    environment.systemPackages = [ cfg.package ];
    environment.etc."blixard/blixard.yaml".text = blixard.renderSettings cfg.settings;

    systemd.services.blixard = {
      description = "Blixard node: functions and microVMs";
      documentation = [ "man:blixard(1)" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" "nix-daemon.socket" ];
      path = programs;
      environment.TZDIR = "/etc/zoneinfo";
      environment.NIX_REMOTE = "daemon"; # who may write the store, where this unit may not
      restartTriggers = [ config.environment.etc."blixard/blixard.yaml".source ];
      # A stop that is part of a restart leaves machines alone (KillMode), so that the node is away but for a moment.
      stopIfChanged = false;
      unitConfig.StartLimitIntervalSec = 0;
      serviceConfig = {
        Type = "notify";
        NotifyAccess = "main";
        ExecStart = concatStringsSep " " (
          [ "${cfg.package}/bin/blixard server --config /etc/blixard/blixard.yaml" ]
          ++ map (file: "--config ${escapeShellArg file}") cfg.settingsFiles);
        ExecReload = "${pkgs.coreutils}/bin/kill -HUP $MAINPID";
        Restart = "on-failure";
        RestartSec = "1s";
        # What runs is found again, and a new node waits until it is let in.
        TimeoutStartSec = "600s";
        TimeoutStopSec = "660s";
        # Machines go on while the daemon is stopped, updated or restarted, each with its monitor.
        KillMode = "process";
        # The daemon has control groups beside its own; with this systemd keeps these controllers on.
        Delegate = "cpu memory pids";
        # A machine or a build that has more memory than it may have is ended; the daemon says so.
        OOMPolicy = "continue";
        UMask = "0077";
        LimitNOFILE = 1048576;
        LimitMEMLOCK = "infinity";
        TasksMax = "infinity";
        LoadCredential = mapAttrsToList (name: path: "${name}:${path}") credentials;

        # For the daemon; runners, VMMs and compilers confine themselves much further.  What is not here it
        # needs: namespaces, devices, control groups, the packet filter, and br_netfilter when a rule wants it.
        ReadWritePaths = [ cfg.dataDir "-/nix/var/nix" ] ++ map (folder: "-${folder}") shareFolders;
        ProtectSystem = "strict";
        ProtectHome = if shareFolders == [ ] then true else "read-only";
        ProtectHostname = true;
        ProtectKernelLogs = true;
        PrivateTmp = true;
        RestrictSUIDSGID = true;
        RestrictRealtime = true;
        LockPersonality = true;
        NoNewPrivileges = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = "~@clock @cpu-emulation @obsolete @raw-io @reboot @swap";
        SystemCallErrorNumber = "EPERM";
        RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_VSOCK";
        # The clock is protected so: ProtectClock took all devices away before systemd 253.
        # One line: what is behind the ~ is taken away, all else stays.
        CapabilityBoundingSet = "~" + concatStringsSep " " [
          "CAP_SYS_TIME" "CAP_SYS_BOOT" "CAP_SYS_PACCT" "CAP_SYS_TTY_CONFIG" "CAP_WAKE_ALARM" "CAP_BLOCK_SUSPEND"
          "CAP_LINUX_IMMUTABLE" "CAP_MAC_ADMIN" "CAP_MAC_OVERRIDE" "CAP_AUDIT_CONTROL" "CAP_AUDIT_READ" "CAP_SYSLOG"
        ];
      } // optionalAttrs (!isRoot) {
        User = cfg.user;
        SupplementaryGroups = [ "kvm" ];
        AmbientCapabilities = [ "CAP_NET_ADMIN" "CAP_NET_RAW" ];
      } // optionalAttrs (cfg.group != "root") {
        Group = cfg.group;
      } // optionalAttrs (cfg.cluster.joinTokenFile != null) {
        # In place of a file that is no more: a node that has joined starts without its token.
        SetCredential = [ "join-token:\\n" ];
      } // optionalAttrs cfg.watchdog.enable {
        WatchdogSec = cfg.watchdog.interval;
      } // optionalAttrs (cfg.environmentFile != null) {
        EnvironmentFile = cfg.environmentFile;
      };
    };

    systemd.tmpfiles.rules =
      [ "d ${cfg.dataDir} 0700 ${cfg.user} ${cfg.group} - -" ]
      ++ optional cfg.backup.enable "d ${cfg.backup.directory} 0700 root root - -";

    users.users = optionalAttrs (!isRoot) {
      ${cfg.user} = { isSystemUser = true; group = cfg.group; home = cfg.dataDir; description = "Blixard"; };
    };
    users.groups = optionalAttrs (cfg.group != "root") { ${cfg.group} = { }; };

    boot.kernelModules = [ "tun" "bridge" "vxlan" "nf_tables" "vhost_vsock" ];
    # The node says so itself once it has a network; weaker than everybody else's wish.
    boot.kernel.sysctl."net.ipv4.ip_forward" = mkOverride 1200 1;

    networking.firewall = mkMerge [
      (mkIf cfg.openFirewall { allowedTCPPorts = ports; allowedUDPPorts = [ 4789 ]; })
      # From machines: addresses and names; all else of the host is closed to them by the node's own rules.
      (mkIf config.networking.firewall.filterForward {
        # What machines may reach is in the node's own tables, which every packet of theirs passes as well.
        extraForwardRules = ''
          iifname "bx*" accept
          oifname "bx*" accept
        '';
      })
      { interfaces = lib.genAttrs bridges (_: { allowedUDPPorts = [ 53 67 ]; allowedTCPPorts = [ 53 ]; }); }
    ];

    # Links of the node are the node's: nobody else gives them addresses.
    networking.dhcpcd.denyInterfaces = [ "bx*" "bt*" "vx*" ];
    networking.networkmanager.unmanaged = [ "interface-name:bx*" "interface-name:bt*" "interface-name:vx*" ];

    nix.settings = mkIf (cfg.nixStore.substitute != null) {
      substituters = [ "${if valueOf "nix_cache_tls_certificate" == "" then "http" else "https"}://${valueOf "nix_cache_address"}" ];
      trusted-public-keys = [ cfg.nixStore.substitute ];
    };

    services.prometheus.scrapeConfigs = mkIf cfg.metrics.scrape [
      { job_name = "blixard"; static_configs = [ { targets = [ (valueOf "api_address") ]; } ]; }
    ];

    # A host that was off at that time has its backup when it is on again.
    systemd.timers.blixard-backup = mkIf cfg.backup.enable { timerConfig.Persistent = true; };
    systemd.services.blixard-backup = mkIf cfg.backup.enable {
      description = "Backup of the state of Blixard";
      after = [ "blixard.service" ];
      startAt = cfg.backup.schedule;
      environment.BLIXARD_ADDR = cfg.socket;
      path = [ cfg.package pkgs.coreutils ];
      serviceConfig = { Type = "oneshot"; UMask = "0077"; };
      script = ''
        set -eu
        cd ${escapeShellArg cfg.backup.directory}
        name=blixard-$(date -u +%Y%m%dT%H%M%SZ).tar
        # What failed in the middle is not taken for a backup.
        blixard cluster backup "$name.part"
        mv -- "$name.part" "$name"
        # By their names, the oldest first.
        there=(blixard-[0-9]*T[0-9]*Z.tar)
        for ((i = 0; i + ${toString cfg.backup.keep} < ''${#there[@]}; i++)); do
          rm -- "''${there[i]}"
        done
      '';
    };

    # Nobody else tells guests that the host goes down: their monitors and VMMs get a signal when all is over.
    systemd.services.blixard-machines = mkIf (cfg.stopMachinesOnShutdown && !cfg.drainOnShutdown) (blixard.telling cfg {
      description = "Machines of this node are shut down before the host, and started after it";
      after = [ "blixard.service" "network-online.target" ];
      wants = [ "blixard.service" "network-online.target" ];
      restartIfChanged = false;
      stopIfChanged = false;
      path = [ cfg.package pkgs.coreutils pkgs.curl pkgs.gnused pkgs.jq config.systemd.package ];
      serviceConfig = {
        TimeoutStopSec = "300s";
        StateDirectory = "blixard-machines";
        StateDirectoryMode = "0700";
      };
      script = ''
        set -eu
        list=''${STATE_DIRECTORY:?}/stopped
        [ -e "$list" ] || exit 0
        : > "$list.left"
        while IFS=/ read -r project machine; do
          code=$(${blixard.curl cfg.socket} --output /dev/null --write-out '%{http_code}' --request POST ${blixard.url "/v1/machines"}/"$machine/actions/start?project=$project" || true)
          # It runs already, or is no more: nothing is to be done.
          case "$code" in 2?? | 404 | 409) ;; *) echo "$project/$machine" >> "$list.left" ;; esac
        done < "$list"
        mv -- "$list.left" "$list"
        [ ! -s "$list" ]
        rm -- "$list"
      '';
      preStop = ''
        set -eu
        [ "$(systemctl is-system-running || true)" = stopping ] || exit 0
        list=''${STATE_DIRECTORY:?}/stopped
        ${blixard.curl cfg.socket} ${blixard.url "/metrics"} | sed -n 's/^blixard_machine_resident_bytes{project="\([^"]*\)",machine="\([^"]*\)"}.*/\1\/\2/p' | sort -u > "$list.part"
        mv -- "$list.part" "$list"
        while IFS=/ read -r project machine; do
          ${blixard.curl cfg.socket} --request POST ${blixard.url "/v1/machines"}/"$machine/actions/stop?project=$project" | jq -r '.operation // empty'
        done < "$list" | while read -r operation; do
          blixard operation wait "$operation" || true
        done
      '';
    });

    # Stopped when the host goes down, before the daemon is; left alone by everything else.
    systemd.services.blixard-drain = mkIf cfg.drainOnShutdown {
      description = "What this node runs leaves it before the host goes down";
      wantedBy = [ "multi-user.target" ];
      after = [ "blixard.service" "network-online.target" ];
      wants = [ "network-online.target" ];
      restartIfChanged = false;
      stopIfChanged = false;
      environment.BLIXARD_ADDR = cfg.socket;
      path = [ cfg.package pkgs.coreutils config.systemd.package ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        TimeoutStartSec = "infinity";
        TimeoutStopSec = "infinity";
      };
      script = ''
        # One that takes work has nothing to end: that is no failure.
        blixard node restore ${escapeShellArg cfg.nodeName} || true
      '';
      preStop = ''
        [ "$(systemctl is-system-running || true)" = stopping ] || exit 0
        blixard node drain ${escapeShellArg cfg.nodeName} --deadline ${cfg.drainDeadline} --force || true
      '';
    };
  };
}
