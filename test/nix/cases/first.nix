# The first node of a cluster, with all that it can be told.
{ pkgs, ... }:
{
  networking.hostName = "one";
  networking.nftables.enable = true;
  networking.firewall.filterForward = true;
  services.prometheus.enable = true;
  services.blixard = {
    enable = true;
    extraPackages = [ pkgs.erofs-utils ];
    role = "server";
    advertiseAddress = "10.0.0.1";
    cluster = {
      name = "home";
      bootstrap = true;
      failureDomain = "rack-1";
      labels.disk = "ssd";
    };
    topology.zone = "a";
    raft.listenAddress = "10.0.0.1:7421";
    gateway = {
      listenAddress = "0.0.0.0:7480";
      tls = {
        listenAddress = "0.0.0.0:443";
        certificateFile = "/var/lib/acme/example.org/fullchain.pem";
        keyFile = "/var/lib/acme/example.org/key.pem";
      };
    };
    openFirewall = true;
    settings.body_bytes_max = "256MiB";
    settingsFiles = [ "/etc/blixard/local.yaml" ];
    credentials.authority = "/run/keys/authority.pem";
    environmentFile = "/run/keys/blixard.env";
    hypervisors = [ "qemu" "cloud-hypervisor" ];
    storage = {
      shareFolders = [ "/srv/shared" ];
      volumes.data.size = "10GiB";
    };
    nixStore = {
      cacheAddress = "10.0.0.1:7430";
      uploadTokenFile = "/run/keys/nix-upload";
      trustedKeys = [ "a:AAAA" "b:BBBB" ];
      substitute = "blixard-1:CCCC";
    };
    resources = {
      reserved = { cpuMillis = 500; memory = "1GiB"; };
      overcommit.cpuPercent = 200;
    };
    drainOnShutdown = true;
    metrics.scrape = true;
    tracing = { endpoint = "http://127.0.0.1:4318"; headersFile = "/run/keys/otlp"; compression = "gzip"; samplePercent = 5; };
    backup = { enable = true; keep = 3; };
    networks.back.subnet = "10.77.0.0/24";
    machines.db = {
      image = "postgres";
      cpus = 2;
      memory = "1GiB";
      disk = 10737418240;
      volumes = [ { name = "db-data"; path = "/var/lib/postgresql"; size = "20GiB"; } "data:/srv:ro" ];
      interfaces = [ { network = "back"; address = "10.77.0.10"; groups = [ "database" ]; } ];
      health = "tcp://:5432";
      restartIfChanged = false;
      runStrategy = "Always";
    };
    machines.web = {
      project = "shop";
      image = "nginx";
      interfaces = [ "front" ];
      publish = [ "8080:80" ];
      placement = { node = null; constraints = [ "\${node.zone} = a" ]; priority = 60; };
      settings.cpu_limit_percent = 150;
    };
    machines.guest = {
      flake.nixosConfigurations.guest.config.microvm = {
        vcpu = 2;
        mem = 512;
        hypervisor = "cloud-hypervisor";
        interfaces = [ { type = "user"; id = "u"; mac = "02:00:00:00:00:01"; } { type = "tap"; id = "t"; mac = "02:00:00:00:00:02"; } ];
        declaredRunner = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-microvm-guest";
        devices = [ { bus = "pci"; path = "0000:01:00.0"; } ];
      };
      interfaces = [ "back" ];
    };
    functions.hello = {
      wasm = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-hello/hello.wasm";
      language = "c";
      env.GREETING = "welcome";
      secrets.TOKEN = "token";
      limits = { memory = "64MiB"; timeout = "5s"; };
      aliases.stable.version = 1;
      triggers.nightly = { kind = "cron"; settings.schedule = "0 3 * * *"; };
      routes.all = { path = "/hello"; methods = [ "GET" ]; };
    };
    functions.ship.flake.packages.x86_64-linux.ship = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-ship";
    secrets.token.file = "/run/keys/token";
    preseed = {
      quotas.shop = { cpus = 8; memory = "16GiB"; };
      projects.shop.objects = { Network.front.mode = "nat"; Queue.orders.visibility = "45s"; };
    };
    manifests = [ { kind = "Stream"; name = "log"; spec.partitions = 1; } ];
  };
}
