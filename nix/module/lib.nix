# What the module and `blixard.lib` share: options made of the daemon's table, and documents for `blixard apply`.
{ lib }:
let
  tables = import ./tables.nix;
  inherit (lib)
    any attrNames concatLists concatMap concatStringsSep elem filter filterAttrs hasPrefix hasSuffix head isAttrs isInt isList
    isString mapAttrs mapAttrsToList mkOption optional optionalAttrs removeSuffix splitString types unique;

  sizePattern = " *[0-9]+(\\.[0-9]+)? *(B|K|M|G|T|KiB|MiB|GiB|TiB|kB|MB|GB|TB)? *";
  durationPattern = " *[0-9]+(\\.[0-9]+)? *(ms|s|m|h|d)? *";
  sizeType = types.either types.ints.unsigned (types.strMatching sizePattern);
  durationType = types.either types.ints.unsigned (types.strMatching durationPattern);

  unitOf = { bytes = " bytes"; milliseconds = " ms"; count = ""; };
  rowType = row:
    let number = types.ints.between row.least row.most; in
    if row.kind == "text" then types.str
    else if row.kind == "bytes" then types.either number (types.strMatching sizePattern)
    else if row.kind == "milliseconds" then types.either number (types.strMatching durationPattern)
    else number;
  rowText = name: row:
    row.text + (
      if row.kind == "text" then " Default: ${if row.default == "" then "empty" else row.default}."
      else " From ${toString row.least} to ${toString row.most}${unitOf.${row.kind}}; default: ${toString row.default}."
    ) + " It is the daemon's option `${name}`.";

  # An option of the daemon, of which the daemon has the default.
  mirror = name: mkOption {
    type = types.nullOr (rowType tables.options.${name});
    default = null;
    description = rowText name tables.options.${name};
  };

  # Names that share a word with one that does not exist.
  resembling = name: names:
    let parts = filter (part: part != "") (splitString "_" name); in
    filter (other: any (part: elem part (splitString "_" other)) parts) names;
  didYouMean = name: names:
    let found = resembling name names; in
    if found == [ ] then "" else "; there are ${concatStringsSep ", " found}";

  # ---- What documents of a kind may say ----

  withoutUnit = name:
    optional (hasSuffix "_bytes" name) (removeSuffix "_bytes" name) ++ optional (hasSuffix "_ms" name) (removeSuffix "_ms" name);
  namesOf = fields: concatMap (name: [ name ] ++ withoutUnit name) (attrNames fields);
  innerOf = kind:
    let found = builtins.match "(REF|LIST)\\((.*)\\)" kind; in
    if found == null then null else tables.types.${builtins.elemAt found 1} or null;
  problemsOf = place: fields: spec:
    concatMap
      (name:
        if !(elem name (namesOf fields)) then
          [ "${place}: there is no `${name}'${didYouMean name (namesOf fields)}" ]
        else
          let
            inner = if fields ? ${name} then innerOf fields.${name}.kind else null;
            value = spec.${name};
          in
          if inner == null then [ ]
          else if isAttrs value then problemsOf "${place}.${name}" inner value
          else if isList value then concatMap (v: if isAttrs v then problemsOf "${place}.${name}" inner v else [ ]) value
          else [ ])
      (attrNames spec);
  fieldsOf = kind:
    removeAttrs tables.kinds.${kind}.fields [ "name" ]
    // optionalAttrs tables.kinds.${kind}.hasNode { node = { kind = "STRING"; must = false; }; };
  has = kind: field: tables.kinds.${kind}.fields ? ${field};

  # What is wrong with a document, in sentences.
  problemsOfDocument = document:
    let place = "${document.kind} ${document.name}"; in
    if !(tables.kinds ? ${document.kind}) then [ "${place}: there is no kind `${document.kind}'; there are ${concatStringsSep ", " (attrNames tables.kinds)}" ]
    else problemsOf place (fieldsOf document.kind) (document.spec or { })
      ++ concatMap
        (name:
          # What a runner boots may have all of the code.
          if tables.kinds.${document.kind}.fields.${name}.must && !(name == "module" && (document.spec or { }) ? runner) && !(any (n: (document.spec or { }) ? ${n}) ([ name ] ++ withoutUnit name))
          then [ "${place}: `${name}' must be said" ] else [ ])
        (attrNames (removeAttrs tables.kinds.${document.kind}.fields [ "name" ]));

  # ---- Documents ----

  said = filterAttrs (_: value: value != null && value != [ ] && value != { });
  # Numbers are bytes or milliseconds; texts have units, and then the name has none.
  measured = name: ending: value:
    if value == null then { } else if isInt value then { "${name}${ending}" = value; } else { ${name} = value; };
  size = name: measured name "_bytes";
  duration = name: measured name "_ms";

  document = { kind, name, project ? "default", labels ? { }, spec ? { } }: {
    inherit kind name project;
  } // optionalAttrs (labels != { }) { inherit labels; } // optionalAttrs (spec != { }) { inherit spec; };

  volumeWord = volume:
    if isString volume then volume
    else "${volume.name}${if volume.path != null then ":${volume.path}" else ""}${if volume.readOnly then ":ro" else ""}";
  interfaceSpec = interface: if isString interface then { network = interface; } else said interface;

  machineDocuments = name: m:
    let
      isRunner = m.runner != null;
      # A guest has the MAC of its configuration, which the network has to be told; taps are in the order of networks.
      taps = if m.evaluatedConfig == null then [ ] else filter (i: i.type or "tap" == "tap") (m.evaluatedConfig.microvm.interfaces or [ ]);
      macOf = index: if index < builtins.length taps then { inherit (builtins.elemAt taps index) mac; } else { };
      networks = builtins.genList (index: macOf index // interfaceSpec (builtins.elemAt m.interfaces index)) (builtins.length m.interfaces);
      # What its runner passes on of its node, the machine asks for.
      passed = if m.evaluatedConfig == null then [ ]
        else map (device: device.path) (filter (device: device.bus or "" == "pci") (m.evaluatedConfig.microvm.devices or [ ]));
      made = filter (volume: !(isString volume) && volume.size != null) m.volumes;
      node = optionalAttrs (m.placement.node != null) { inherit (m.placement) node; };
    in
    map
      (volume: document {
        kind = "Volume"; inherit (volume) name; inherit (m) project labels;
        spec = size "size" volume.size // node // volume.settings;
      })
      made
    ++ [
      (document {
        kind = "Machine"; inherit name; inherit (m) project labels;
        spec = said ({
          inherit (m) image cpus hostname;
          runner = if m.runner == null then null else toString m.runner;
          # For people, where it has a name.
          flake = if has "Machine" "flake" && builtins.isString m.flake then m.flake else null;
          driver = if isRunner then null else m.hypervisor;
          strategy = m.runStrategy;
          volumes = map volumeWord m.volumes;
          inherit networks;
          publish = m.publish;
          shares = m.shares;
          devices = m.devices ++ passed;
          environment = mapAttrsToList (n: value: "${n}=${value}") m.environment;
          health = m.health;
          ssh_keys = m.sshKeys;
          after = m.after;
          inherit (m.placement) constraints affinities spreads tolerations priority;
          placement_group = m.placement.group;
          node_pool = m.placement.pool;
        } // size "memory" m.memory // size "disk" m.disk // node // m.settings);
      })
    ];

  functionDocuments = name: f:
    [
      (document {
        kind = "Function"; inherit name; inherit (f) project labels;
        spec = said ({
          module = if f.module == null then null else toString f.module;
          runtime = if f.runner == null then null else "linux";
          runner = if f.runner == null then null else toString f.runner;
          inherit (f) language secrets;
          # For people, where it has a name.
          flake = if has "Function" "flake" && builtins.isString f.flake then f.flake else null;
          environment = f.env;
        } // f.limits // f.settings);
      })
    ]
    ++ mapAttrsToList
      (alias: target: document {
        kind = "Alias"; name = "${name}:${alias}"; inherit (f) project labels;
        spec = said { inherit (target) version weights sticky; };
      })
      (mapAttrs (_: target: target // { weights = mapAttrs (_: toString) target.weights; }) f.aliases)
    ++ mapAttrsToList
      (trigger: spec: document {
        kind = "Trigger"; name = "${name}-${trigger}"; inherit (f) project labels;
        spec = { function = name; } // spec;
      })
      f.triggers
    ++ mapAttrsToList
      (route: spec: document {
        kind = "Route"; name = "${name}-${route}"; inherit (f) project labels;
        spec = { function = name; } // spec;
      })
      f.routes;

  # A text that `blixard apply -f` takes: a document a line, so that what it says of a line says which.
  render = documents: concatStringsSep "" (map (d: "---\n${builtins.toJSON d}\n") documents);
  projectsOf = documents: unique (map (d: d.project or "default") documents);
  renderByProject = documents:
    builtins.listToAttrs (map
      (project: { name = project; value = render (filter (d: (d.project or "default") == project) documents); })
      (projectsOf documents));

  # A configuration of the daemon: JSON, which is YAML, an option a line.
  renderSettings = settings:
    let rows = mapAttrsToList (name: value: "  ${builtins.toJSON name}: ${builtins.toJSON value}") (filterAttrs (_: value: value != null) settings); in
    "{\n${concatStringsSep ",\n" rows}\n}\n";

  # A unit that tells its node something once, and again for as long as the cluster has no leader.
  telling = cfg: unit: unit // {
    wantedBy = [ "multi-user.target" ];
    environment.BLIXARD_ADDR = cfg.socket;
    unitConfig.StartLimitIntervalSec = 0;
    serviceConfig = { Type = "oneshot"; RemainAfterExit = true; Restart = "on-failure"; RestartSec = "5s"; TimeoutStartSec = "infinity"; UMask = "0077"; }
      // unit.serviceConfig or { };
  };

  # The API by the node's own socket, where no verb of the command line knows projects.
  url = path: "http://localhost${path}";
  curl = socket: "curl --silent --show-error ${
    if hasPrefix "unix:" socket then "--unix-socket ${lib.escapeShellArg (lib.removePrefix "unix:" socket)}"
    else "--connect-to ${lib.escapeShellArg "localhost:80:${socket}"}"}";
in
{
  inherit
    curl url
    didYouMean document duration durationType functionDocuments has machineDocuments mirror problemsOfDocument projectsOf render
    renderByProject renderSettings rowText rowType said size sizeType tables telling;
}
