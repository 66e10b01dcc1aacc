# services.blixard: machines, functions and what they need, which become documents for `blixard apply`.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.blixard;
  blixard = import ./lib.nix { inherit lib; };
  inherit (blixard) sizeType;
  inherit (lib) literalExpression mkIf mkOption types;

  maybe = type: description: mkOption { type = types.nullOr type; default = null; inherit description; };
  list = description: mkOption { type = types.listOf types.str; default = [ ]; inherit description; };
  texts = description: mkOption { type = types.attrsOf types.str; default = { }; inherit description; };
  text = default: description: mkOption { type = types.str; inherit default description; };
  free = description: mkOption { type = types.attrsOf types.anything; default = { }; inherit description; };
  switch = default: description: mkOption { type = types.bool; inherit default description; };
  project = text "default" "The project it belongs to.";
  labels = texts "Labels of the document.";
  moreFields = kind: free "More fields of a ${kind} by the names of manifests; one that does not exist is refused when the system is built.";

  volume = types.submodule {
    options = {
      name = mkOption { type = types.str; description = "The volume."; };
      path = maybe types.str "Where it is mounted; null: it is not.";
      readOnly = switch false "Whether the machine cannot write it.";
      size = maybe sizeType "Make it, with this size; null: it is there.";
      settings = moreFields "Volume";
    };
  };
  interface = types.submodule {
    options = {
      network = mkOption { type = types.str; description = "The network."; };
      address = maybe types.str "The address there; null: the lowest that is free.";
      mac = maybe types.str "The MAC address; null: one of its own.";
      groups = list "Security groups: with one or more, only what these allow comes in.";
    };
  };

  # A flake itself, or REF#NAME; pure evaluation takes references that are locked.
  flakeOf = name: flake:
    if builtins.isString flake then
      let parts = lib.splitString "#" flake; in
      { flake = builtins.getFlake (builtins.head parts); name = if builtins.length parts > 1 then lib.last parts else name; }
    else { inherit flake name; };

  # A NixOS configuration, evaluated as a microvm.nix guest: what `config` of a machine is worth.
  guest = name: modules: import "${toString pkgs.path}/nixos/lib/eval-config.nix" {
    system = null;
    inherit lib;
    modules = [ cfg.microvmModule { nixpkgs.pkgs = pkgs; networking.hostName = lib.mkDefault name; } ] ++ modules;
  };
  configType = lib.mkOptionType {
    name = "NixOS configuration";
    description = "NixOS configuration";
    check = x: builtins.isAttrs x || builtins.isFunction x || builtins.isPath x;
    merge = loc: defs: map (def: def.value) defs;
  };

  machine = types.submodule ({ name, config, ... }: {
    options = {
      inherit project labels;
      image = maybe types.str "The image it starts from, which is there (`blixard image list`).";
      runner = maybe (types.path) "A runner of microvm.nix: `nixosConfigurations.NAME.config.microvm.declaredRunner`.";
      flake = maybe types.unspecified ''
        A flake (`inputs.machines`, `self`) whose `nixosConfigurations.NAME` it is, or a text REF#NAME; with the options of microvm.nix, whose
        runner is taken.'';
      config = mkOption {
        type = types.nullOr configType;
        default = null;
        description = "Its NixOS configuration, with the options of microvm.nix; needs `services.blixard.microvmModule`.";
      };
      evaluatedConfig = mkOption {
        type = types.nullOr types.unspecified;
        default =
          if config.config != null then (guest name config.config).config
          else if config.flake != null then
            (let found = flakeOf name config.flake; in found.flake.nixosConfigurations.${found.name}.config)
          else null;
        defaultText = literalExpression "the configuration that `config` or `flake` comes to";
        readOnly = true;
        internal = true;
        description = "What `config` or `flake` comes to.";
      };
      cpus = maybe types.ints.positive "Virtual CPUs.";
      memory = maybe sizeType "Memory: bytes, or as in \"512MiB\".";
      disk = maybe sizeType "What it may write over its image.";
      hostname = maybe types.str "Its host name; null: its name.";
      hypervisor = maybe (types.enum [ "qemu" "cloud-hypervisor" "firecracker" ]) "What runs it; null: the first that can.";
      volumes = mkOption {
        type = types.listOf (types.either types.str volume);
        default = [ ];
        example = [ "data:/srv" { name = "logs"; path = "/var/log"; size = "1GiB"; } ];
        description = "Volumes: NAME[:PATH][:ro], or sets, which can make them.";
      };
      interfaces = mkOption {
        type = types.listOf (types.either types.str interface);
        default = [ ];
        example = [ "back" { network = "front"; groups = [ "web" ]; } ];
        description = "Networks it is in, the first is its way out; none: a user-mode network of its own.";
      };
      publish = list "[ADDRESS:]HOST-PORT:GUEST-PORT[/udp]: ports of the node that lead into it.";
      shares = list "HOST-FOLDER:GUEST-PATH[:ro], of `storage.shareFolders`.";
      devices = list "Devices of its node that it has whole: `gpu`, `gpu=2`, `10de:2204`, an address, `usb:serial`, `usb:0403:6001`, `usb:1-2.3`; those of `microvm.devices` are asked for anyway.";
      environment = texts "Variables of the program that it runs, of images with one.";
      health = maybe types.str "What is checked from inside: http://:PORT/PATH, tcp://:PORT, exec:COMMAND or agent.";
      sshKeys = list "Public keys that may log in.";
      after = list "Machines that run, and are healthy where that is checked, before this one is started.";
      runStrategy = maybe (types.enum [ "Always" "RerunOnFailure" "Once" "Manual" "Halted" ]) "When it is started again.";
      placement = {
        node = mkOption {
          type = types.nullOr types.str;
          default = cfg.defaultNode;
          defaultText = literalExpression "config.services.blixard.nodeName";
          description = "The node that it is made on; null: one that suits. Where it has moved since, it stays.";
        };
        constraints = list "What its node must be: `\${node.zone} = a`.";
        affinities = list "What its node had better be: `50 label.disk = ssd`.";
        spreads = list "Over what its set is spread.";
        tolerations = list "Taints of nodes that it bears.";
        group = maybe types.str "The placement group that it is in.";
        pool = maybe types.str "The pool of nodes that it is placed in.";
        priority = maybe (types.ints.between 0 100) "Who waits for room gets it in this order, the highest first.";
      };
      restartIfChanged = switch true "Restart it when a change takes effect at its next start only; else it has the change whenever it is started next.";
      settings = moreFields "Machine";
    };
    config = mkIf (config.config != null || config.flake != null) {
      runner = config.evaluatedConfig.microvm.declaredRunner;
      # What the node counts; the guest has what its configuration says.
      cpus = lib.mkDefault config.evaluatedConfig.microvm.vcpu;
      memory = lib.mkDefault (config.evaluatedConfig.microvm.mem * 1048576);
    };
  });

  alias = types.submodule {
    options = {
      version = maybe types.ints.positive "A version, which gets all calls; or:";
      weights = mkOption {
        type = types.attrsOf (types.ints.between 1 1000);
        default = { };
        example = { "7" = 90; "8" = 10; };
        description = "Versions, each of which gets its share.";
      };
      sticky = maybe types.str "header:NAME or cookie:NAME: requests with the same value get the same version.";
    };
  };
  function = types.submodule ({ name, config, ... }: {
    options = {
      inherit project labels;
      source = maybe types.path "A project folder (`blixard fn new`), which is built by Nix.";
      wasm = maybe (types.path) "A module that is built already.";
      flake = maybe types.unspecified "A flake (`inputs.hello`, `self`) whose package NAME holds NAME.wasm, or a text REF#NAME.";
      runner = maybe types.path ''
        A runner of microvm.nix whose guest has the agent (`nixosModules.function` of this flake): calls run in clones of that guest, which are taken
        when it is up. `settings.command` is what serves them.'';
      language = maybe types.str "Its language; of `source` it is taken from `blixard.yaml` when that is null.";
      module = mkOption {
        type = types.nullOr (types.path);
        internal = true;
        default =
          if config.wasm != null then (if builtins.isPath config.wasm then "${config.wasm}" else config.wasm)
          else if config.flake != null then
            (let found = flakeOf name config.flake; in "${found.flake.packages.${pkgs.stdenv.hostPlatform.system}.${found.name}}/${found.name}.wasm")
          else if config.source != null then
            ((import ../function.nix { inherit lib pkgs; blixard = cfg.package; }) { inherit name; src = config.source; language = config.language; }).wasm
          else null;
        defaultText = literalExpression "what `wasm`, `flake` or `source` comes to";
        description = "The module that is deployed.";
      };
      env = texts "Environment variables; they are in the store, so no secrets.";
      secrets = texts "Environment variables whose values are secrets: name of the variable to name of the secret.";
      limits = free "Limits: `memory`, `timeout`, `concurrency_max`, `queue_max`, `instances_min`, ... as in manifests.";
      aliases = mkOption {
        type = types.attrsOf alias;
        default = { };
        example = { stable.version = 3; canary.weights = { "3" = 90; "4" = 10; }; };
        description = "Aliases over versions.";
      };
      triggers = mkOption {
        type = types.attrsOf (types.attrsOf types.anything);
        default = { };
        example = { nightly = { kind = "cron"; settings.schedule = "0 3 * * *"; }; };
        description = "What calls it: specs of triggers, which are called FUNCTION-NAME.";
      };
      routes = mkOption {
        type = types.attrsOf (types.attrsOf types.anything);
        default = { };
        example = { all = { path = "/hello"; methods = [ "GET" ]; }; };
        description = "Requests at the gateway that call it: specs of routes, which are called FUNCTION-NAME.";
      };
      settings = moreFields "Function";
    };
  });

  network = types.submodule {
    options = {
      inherit project labels;
      subnet = maybe types.str "Its addresses, as 10.1.0.0/24.";
      gateway = maybe types.str "Its address on each node.";
      mode = maybe (types.enum [ "nat" "routed" "closed" ]) "How it leads out.";
      settings = moreFields "Network";
    };
  };
  volumeObject = types.submodule {
    options = {
      inherit project labels;
      size = maybe sizeType "What it may hold.";
      node = mkOption {
        type = types.nullOr types.str;
        default = cfg.defaultNode;
        defaultText = literalExpression "config.services.blixard.nodeName";
        description = "The node it is made on; null: one that suits.";
      };
      settings = moreFields "Volume";
    };
  };
in
{
  options.services.blixard = {
    defaultNode = mkOption {
      type = types.nullOr types.str;
      default = cfg.nodeName;
      internal = true;
      description = "Where machines and volumes are made that do not say it.";
    };
    microvmModule = mkOption {
      type = types.nullOr types.unspecified;
      default = null;
      example = literalExpression "microvm.nixosModules.microvm";
      description = "The module of microvm.nix for guests, which `machines.<name>.config` is evaluated with.";
    };
    machines = mkOption { type = types.attrsOf machine; default = { }; description = "Machines, by name: each is one of `image`, `runner`, `flake` and `config`."; };
    functions = mkOption { type = types.attrsOf function; default = { }; description = "Functions, by name: each is one of `source`, `wasm`, `flake` and `runner`."; };
    networks = mkOption { type = types.attrsOf network; default = { }; description = "Networks of machines, by name."; };
    storage.volumes = mkOption { type = types.attrsOf volumeObject; default = { }; description = "Volumes, by name."; };
    secrets = mkOption {
      type = types.attrsOf (types.submodule {
        options = {
          inherit project;
          file = mkOption { type = types.str; description = "A file with the value, read by systemd (LoadCredential) when what is declared is applied."; };
        };
      });
      default = { };
      description = "Secrets of functions and triggers, by name.";
    };
    preseed = {
      quotas = mkOption {
        type = types.attrsOf (types.attrsOf types.anything);
        default = { };
        example = { shop = { cpus = 8; memory = "16GiB"; }; };
        description = "What projects may have at most: project to a spec of a Quota.";
      };
      networks = mkOption { type = types.attrsOf network; default = { }; description = "As `networks`."; };
      projects = mkOption {
        type = types.attrsOf (types.submodule {
          options = {
            quota = free "What it may have at most: a spec of a Quota.";
            objects = mkOption {
              type = types.attrsOf (types.attrsOf (types.attrsOf types.anything));
              default = { };
              example = { Queue.orders.visibility = "45s"; Stream.log = { }; };
              description = "What it has: kind to name to spec.";
            };
          };
        });
        default = { };
        description = "Projects, by name.";
      };
    };
    manifests = mkOption {
      type = types.listOf (types.submodule {
        options = {
          inherit project labels;
          kind = mkOption { type = types.str; description = "Its kind."; };
          name = mkOption { type = types.str; description = "Its name."; };
          spec = free "What it is to be.";
        };
      });
      default = [ ];
      example = [ { kind = "Queue"; name = "orders"; spec.visibility = "45s"; } ];
      description = "More documents, as `blixard apply` takes them.";
    };
    apply = {
      owner = mkOption {
        type = types.str;
        default = "nixos-${cfg.nodeName}";
        defaultText = literalExpression ''"nixos-''${config.services.blixard.nodeName}"'';
        description = "As whom what is declared here is applied: what this owner applied before and is declared no more is deleted.";
      };
      wait = mkOption { type = types.enum [ "done" "healthy" ]; default = "done"; description = "For the end of what is applied, or for machines to be healthy, too."; };
      timeout = mkOption { type = types.strMatching "[0-9]+(ms|s|m|h)"; default = "1h"; description = "When that is given up."; };
      replace = switch false "Objects may be deleted, **with what is in them**, and made anew where a change needs that; else such a change is refused as a whole.";
      force = switch false "Take over fields that another owner wants otherwise.";
    };
  };
}
