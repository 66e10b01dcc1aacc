# A small stand-in for the parts of nixpkgs' `lib` that the module and the functions in nix/ use, so that
# they are tried where there is no nixpkgs.  What it has behaves as the real one does; what it lacks is
# used by nothing in nix/.
let
  inherit (builtins)
    all any attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' functionArgs genList
    head isAttrs isBool isFunction isInt isList isPath isString length listToAttrs map mapAttrs match removeAttrs
    replaceStrings sort split stringLength substring tail toString;

  basics = rec {
    inherit (builtins)
      all any attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' functionArgs genList
      head isAttrs isBool isFunction isInt isList isString length listToAttrs map mapAttrs
      replaceStrings sort stringLength substring tail toString;
    id = x: x;
    flip = f: a: b: f b a;
    optional = condition: x: if condition then [ x ] else [ ];
    optionals = condition: x: if condition then x else [ ];
    optionalAttrs = condition: x: if condition then x else { };
    optionalString = condition: x: if condition then x else "";
    nameValuePair = name: value: { inherit name value; };
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
    filterAttrs = keep: set: listToAttrs (concatMap (name: optional (keep name set.${name}) (nameValuePair name set.${name})) (attrNames set));
    genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
    concatMapStringsSep = separator: f: list: concatStringsSep separator (map f list);
    concatMapAttrs = f: set: foldl' (a: b: a // b) { } (mapAttrsToList f set);
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix = suffix: text:
      stringLength text >= stringLength suffix
      && substring (stringLength text - stringLength suffix) (stringLength suffix) text == suffix;
    removePrefix = prefix: text: if hasPrefix prefix text then substring (stringLength prefix) (0 - 1) text else text;
    removeSuffix = suffix: text: if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
    hasInfix = infix: text: filter isList (split (escapeRegex infix) text) != [ ];
    escapeRegex = text: replaceStrings [ "\\" "[" "{" "(" ")" "^" "$" "?" "*" "+" "|" "." ] [ "\\\\" "\\[" "\\{" "\\(" "\\)" "\\^" "\\$" "\\?" "\\*" "\\+" "\\|" "\\." ] text;
    splitString = separator: text: filter isString (split (escapeRegex separator) text);
    escapeShellArg = value:
      let text = toString value; in
      if match "[[:alnum:],._+:@%/-]+" text != null then text else "'${replaceStrings [ "'" ] [ "'\\''" ] text}'";
    escapeShellArgs = concatMapStringsSep " " escapeShellArg;
    makeBinPath = packages: concatMapStringsSep ":" (package: "${package.bin or package}/bin") packages;
    unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
    last = list: elemAt list (length list - 1);
    mod = a: b: a - (a / b) * b;
    toInt = text: builtins.fromJSON text;
    fileContents = path: removeSuffix "\n" (builtins.readFile path);
    zipAttrsWith = f: sets:
      listToAttrs (map (name: nameValuePair name (f name (concatMap (set: optional (set ? ${name}) set.${name}) sets)))
        (unique (concatMap attrNames sets)));
    setAttrByPath = path: value: if path == [ ] then value else { ${head path} = setAttrByPath (tail path) value; };
    recursiveUpdate = a: b:
      a // mapAttrs (name: value: if isAttrs value && isAttrs (a.${name} or null) then recursiveUpdate a.${name} value else value) b;
    showOption = path: concatStringsSep "." path;
    cleanSourceWith = { src, filter, name ? "source" }: builtins.path { inherit filter name; path = src; };
    assertMsg = condition: message: condition || throw message;
    licenses.asl20 = { spdxId = "Apache-2.0"; };
    platforms.linux = [ "x86_64-linux" ];
  };
  inherit (basics)
    optional optionals nameValuePair mapAttrsToList filterAttrs concatMapStringsSep unique last zipAttrsWith setAttrByPath
    recursiveUpdate showOption;

  # ---- Properties of definitions ----

  isType = type: x: (x._type or "") == type;
  properties = rec {
    mkIf = condition: content: { _type = "if"; inherit condition content; };
    mkMerge = contents: { _type = "merge"; inherit contents; };
    mkOverride = priority: content: { _type = "override"; inherit priority content; };
    mkOptionDefault = mkOverride 1500;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    mkOrder = priority: content: { _type = "order"; inherit priority content; };
    mkBefore = mkOrder 500;
    mkAfter = mkOrder 1500;
  };

  # Into the attributes, so that which there are does not depend on a condition.
  pushDown = config:
    if isType "merge" config then concatMap pushDown config.contents
    else if isType "if" config then map (mapAttrs (_: properties.mkIf config.condition)) (pushDown config.content)
    else if isType "override" config then map (mapAttrs (_: properties.mkOverride config.priority)) (pushDown config.content)
    else [ config ];

  discharge = value:
    if isType "merge" value then concatMap discharge value.contents
    else if isType "if" value then
      if !isBool value.condition then throw "mkIf was given no condition"
      else optionals value.condition (discharge value.content)
    else [ value ];

  strongest = defs:
    let
      priorityOf = def: if isType "override" def.value then def.value.priority else 100;
      highest = foldl' (a: def: if priorityOf def < a then priorityOf def else a) 9999 defs;
      strip = def: def // { value = if isType "override" def.value then def.value.content else def.value; };
    in
    map strip (filter (def: priorityOf def == highest) defs);

  inOrder = defs:
    let
      orderOf = def: if isType "order" def.value then def.value.priority else 1000;
      strip = def: if isType "order" def.value then def // { value = def.value.content; } else def;
    in
    if any (def: isType "order" def.value) defs then map strip (sort (a: b: orderOf a < orderOf b) defs) else defs;

  # { isDefined, value } of an option from what defines it.
  mergeDefinitions = loc: type: defs:
    let
      found = inOrder (strongest (concatMap (def: map (value: def // { inherit value; }) (discharge def.value)) defs));
      bad = filter (def: !type.check def.value) found;
      shown = value: if isString value || isInt value || isBool value then builtins.toJSON value else "a ${builtins.typeOf value}";
    in
    {
      isDefined = found != [ ];
      value =
        if found == [ ] then
          type.emptyValue.value or (throw "The option `${showOption loc}' was accessed but has no value defined.")
        else if bad != [ ] then
          throw "A definition for option `${showOption loc}' is not of type `${type.description}': ${concatMapStringsSep ", " (def: "${shown def.value} in ${def.file}") bad}"
        else type.merge loc found;
    };

  # ---- Types ----

  mkOptionType = { name, description ? name, check ? (_: true), merge ? mergeOne, getSubOptions ? (_: { }), emptyValue ? { }, nestedTypes ? { }, ... }@type:
    { inherit name description check merge getSubOptions emptyValue nestedTypes; _type = "option-type"; } // type;
  mergeOne = loc: defs:
    if length defs == 1 then (head defs).value
    else throw "The option `${showOption loc}' is defined multiple times while it's expected to be unique.";
  mergeEqual = loc: defs:
    if all (def: def.value == (head defs).value) defs then (head defs).value
    else throw "The option `${showOption loc}' has conflicting definition values.";
  scalar = name: description: check: mkOptionType { inherit name description check; merge = mergeEqual; };
  isPathLike = x: isPath x || (isString x && substring 0 1 x == "/") || (isAttrs x && x ? outPath);

  types = rec {
    unspecified = mkOptionType { name = "unspecified"; description = "unspecified value"; };
    raw = mkOptionType { name = "raw"; description = "raw value"; };
    anything = mkOptionType {
      name = "anything";
      merge = loc: defs:
        if all (def: isAttrs def.value && !(def.value ? outPath)) defs then
          mapAttrs (name: value: value) (zipAttrsWith (name: inner: (mergeDefinitions (loc ++ [ name ]) anything inner).value)
            (map (def: mapAttrs (_: value: { inherit (def) file; inherit value; }) def.value) defs))
        else mergeEqual loc defs;
    };
    bool = scalar "bool" "boolean" isBool;
    int = scalar "int" "signed integer" isInt;
    str = scalar "str" "string" isString;
    float = scalar "float" "floating point number" builtins.isFloat;
    number = either int float;
    port = ints.between 0 65535;
    path = scalar "path" "absolute path" isPathLike;
    package = scalar "package" "package" (x: (isAttrs x && x ? outPath) || isPath x || (isString x && substring 0 1 x == "/"));
    strMatching = pattern: scalar "strMatching" "string matching the pattern ${pattern}" (x: isString x && match pattern x != null);
    lines = mkOptionType {
      name = "lines"; description = "strings concatenated with \"\\n\""; check = isString;
      merge = loc: defs: concatStringsSep "\n" (map (def: def.value) defs);
    };
    ints = {
      between = least: most: scalar "intBetween" "integer between ${toString least} and ${toString most} (both inclusive)" (x: isInt x && x >= least && x <= most);
      unsigned = scalar "unsignedInt" "unsigned integer, meaning >=0" (x: isInt x && x >= 0);
      positive = scalar "positiveInt" "positive integer, meaning >0" (x: isInt x && x > 0);
    };
    enum = values: scalar "enum" "one of ${concatMapStringsSep ", " builtins.toJSON values}" (x: elem x values);
    nullOr = inner: mkOptionType {
      name = "nullOr"; description = "null or ${inner.description}";
      check = x: x == null || inner.check x;
      merge = loc: defs:
        let nulls = length (filter (def: def.value == null) defs); in
        if nulls == length defs then null
        else if nulls > 0 then throw "The option `${showOption loc}' is defined both null and not null."
        else inner.merge loc defs;
      getSubOptions = inner.getSubOptions;
      emptyValue = { value = null; };
      nestedTypes.elemType = inner;
    };
    listOf = inner: mkOptionType {
      name = "listOf"; description = "list of ${inner.description}"; check = isList;
      merge = loc: defs:
        map (x: x.value) (filter (x: x.isDefined) (concatLists (map
          (def: genList (n: mergeDefinitions (loc ++ [ "[definition ${toString (n + 1)}-entry]" ]) inner [ { inherit (def) file; value = elemAt def.value n; } ]) (length def.value))
          defs)));
      getSubOptions = prefix: inner.getSubOptions (prefix ++ [ "*" ]);
      emptyValue = { value = [ ]; };
      nestedTypes.elemType = inner;
    };
    attrs = mkOptionType {
      name = "attrs"; description = "attribute set"; check = isAttrs;
      merge = loc: defs: foldl' (a: def: a // def.value) { } defs;
      emptyValue = { value = { }; };
    };
    attrsOf = inner: mkOptionType {
      name = "attrsOf"; description = "attribute set of ${inner.description}"; check = isAttrs;
      merge = loc: defs:
        mapAttrs (_: x: x.value) (filterAttrs (_: x: x.isDefined)
          (zipAttrsWith (name: inner': mergeDefinitions (loc ++ [ name ]) inner inner')
            (concatMap (def: map (mapAttrs (_: value: { inherit (def) file; inherit value; })) (pushDown def.value)) defs)));
      getSubOptions = prefix: inner.getSubOptions (prefix ++ [ "<name>" ]);
      emptyValue = { value = { }; };
      nestedTypes.elemType = inner;
    };
    lazyAttrsOf = attrsOf;
    either = a: b: mkOptionType {
      name = "either"; description = "${a.description} or ${b.description}";
      check = x: a.check x || b.check x;
      merge = loc: defs:
        if all (def: a.check def.value) defs then a.merge loc defs
        else if all (def: b.check def.value) defs then b.merge loc defs
        else mergeOne loc defs;
      getSubOptions = prefix: a.getSubOptions prefix // b.getSubOptions prefix;
    };
    oneOf = list: foldl' either (head list) (tail list);
    submodule = modules: submoduleWith { modules = if isList modules then modules else [ modules ]; };
    submoduleWith = { modules, specialArgs ? { }, ... }:
      let
        evaluate = prefix: defs: evalModules {
          inherit prefix specialArgs;
          modules = modules
            ++ [ { _module.args.name = if prefix == [ ] then "<name>" else last prefix; } ]
            ++ map (def: if isAttrs def.value then { _file = def.file; config = def.value; } else { _file = def.file; imports = [ def.value ]; }) defs;
        };
      in
      mkOptionType {
        name = "submodule"; description = "submodule";
        check = x: isAttrs x || isFunction x || isPath x;
        merge = loc: defs: (evaluate loc defs).config;
        getSubOptions = prefix: (evaluate prefix [ ]).options;
        emptyValue = { value = { }; };
      };
  };

  # ---- Modules ----

  mkOption = attributes: attributes // { _type = "option"; };
  isOption = isType "option";

  words = [ "_file" "key" "imports" "options" "config" "freeformType" "disabledModules" "meta" "_class" ];

  evalModules = { modules, specialArgs ? { }, prefix ? [ ], ... }:
    let
      baseArgs = specialArgs // { inherit lib config options; specialArgs = specialArgs; };
      call = file: f:
        f (baseArgs // mapAttrs (name: _: baseArgs.${name} or config._module.args.${name} or (throw "a module wants `${name}', which nobody gives it (${file})")) (functionArgs f));
      collect = file: m:
        if isPath m || (isString m) then collect (toString m) (import m)
        else if isFunction m then collect file (call file m)
        else
          let
            where = toString (m._file or file);
            isLong = m ? config || m ? options;
            unknown = filter (name: !(elem name words)) (attrNames m);
          in
          if isLong && unknown != [ ] then
            throw "Module `${where}' has an unsupported attribute `${head unknown}'."
          else
            concatMap (collect where) (m.imports or [ ])
            ++ [ {
              file = where;
              options = m.options or { };
              config = if isLong then m.config or { } else removeAttrs m words;
              freeform = optional (m ? freeformType) m.freeformType;
            } ];
      all' = concatMap (collect "<unknown>") modules;
      freeforms = concatMap (m: m.freeform) all';
      internal._module = {
        args = mkOption { type = types.attrsOf types.raw; default = { }; internal = true; visible = false; };
        check = mkOption { type = types.bool; default = true; internal = true; visible = false; };
        freeformType = mkOption { type = types.nullOr types.raw; default = null; internal = true; visible = false; };
      };
      merged = mergeTree prefix
        (map (m: { inherit (m) file options; }) all' ++ [ { file = "lib/modules.nix"; options = internal; } ])
        (concatMap (m: map (config: { inherit (m) file; inherit config; }) (pushDown m.config)) all');
      freeform = if freeforms != [ ] then head freeforms else merged.config._module.freeformType;
      rest =
        if merged.unmatched == [ ] then { }
        else if freeform == null then
          let first = head merged.unmatched; in
          throw "The option `${showOption first.loc}' does not exist.  Definition values: in ${first.file}"
        else (mergeDefinitions prefix freeform (map (def: { inherit (def) file; value = setAttrByPath def.path def.value; }) merged.unmatched)).value;
      config = if freeforms != [ ] then recursiveUpdate rest merged.config else builtins.seq (merged.unmatched == [ ] || rest == rest) merged.config;
      options = merged.options;
    in
    { inherit options; config = removeAttrs config [ "_module" ]; _module = config._module; type = types.submodule modules; };

  # Options as they are declared, and what they are worth: { options, config, unmatched }.
  mergeTree = loc: declarations: definitions:
    mergeTreeAt loc [ ] declarations definitions;
  mergeTreeAt = loc: path: declarations: definitions:
    let
      declared = zipAttrsWith (_: list: list)
        (map (d: mapAttrs (_: value: { inherit (d) file; inherit value; }) d.options) declarations);
      defined = zipAttrsWith (_: list: list)
        (map (d: mapAttrs (_: value: { inherit (d) file; inherit value; }) d.config) definitions);
      one = name: list:
        let
          here = loc ++ [ name ];
          found = filter (d: isOption d.value) list;
          defs = defined.${name} or [ ];
        in
        if found == [ ] then
          mergeTreeAt here (path ++ [ name ])
            (map (d: { inherit (d) file; options = d.value; }) list)
            (concatMap (d: map (config: { inherit (d) file; inherit config; }) (pushDown d.value)) defs)
        else if length list > 1 then
          throw "The option `${showOption here}' in `${(elemAt list 1).file}' is already declared in `${(head list).file}'."
        else
          let
            option = (head found).value;
            type = option.type or types.unspecified;
            merged = mergeDefinitions here type
              (defs ++ optional (option ? default) { file = (head found).file; value = properties.mkOptionDefault option.default; });
            value = if option ? apply then option.apply merged.value else merged.value;
          in
          if (option.readOnly or false) && length defs + (if option ? default then 1 else 0) > 1 then throw "The option `${showOption here}' is read-only, but it's set multiple times."
          else {
            config = value;
            options = option // { inherit type value; loc = here; isDefined = merged.isDefined; declarations = [ (head found).file ]; };
            unmatched = [ ];
          };
      results = mapAttrs one declared;
    in
    {
      config = mapAttrs (_: r: r.config) results;
      options = mapAttrs (_: r: r.options) results;
      unmatched = concatMap (r: r.unmatched) (attrValues results)
        ++ concatMap (name: map (d: { inherit (d) file value; loc = loc ++ [ name ]; path = path ++ [ name ]; }) defined.${name})
          (filter (name: !(declared ? ${name})) (attrNames defined));
    };

  lib = basics // properties // {
    inherit types mkOption isOption evalModules mkOptionType;
    options = { inherit mkOption isOption showOption; };
    modules = { inherit evalModules; };
    mkEnableOption = what: mkOption { type = types.bool; default = false; example = true; description = "Whether to enable ${what}."; };
    literalExpression = text: { _type = "literalExpression"; inherit text; };
  };
in
lib
