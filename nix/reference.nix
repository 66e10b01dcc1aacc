# The options of the module as a list: name, type, default, description.  What is internal is left out.
{ lib, pkgs ? { } }:
let
  inherit (builtins) attrNames concatLists isAttrs isBool isList isString map match toJSON toString;
  evaluated = lib.evalModules {
    modules = [
      ./module/options.nix
      ./module/workloads.nix
      { options.networking.hostName = lib.mkOption { type = lib.types.str; default = ""; internal = true; }; }
      { _module.args.pkgs = pkgs // { lib = lib; }; }
    ];
  };
  literal = x:
    if x == { } then "{ }" else if x == [ ] then "[ ]"
    else if isList x then "[ ${builtins.concatStringsSep " " (map literal x)} ]"
    else if isAttrs x then "{ ${builtins.concatStringsSep " " (map (n: "${if match "[a-zA-Z_][a-zA-Z0-9_-]*" n != null then n else toJSON n} = ${literal x.${n}};") (attrNames x))} }"
    else if x == null then "null"
    else if isBool x || isString x then builtins.replaceStrings [ "\${" ] [ "\\\${" ] (toJSON x)
    else toString x;
  shown = x: if (x._type or "") == "literalExpression" then x.text else literal x;
  walk = loc: tree:
    concatLists (map
      (name:
        let
          option = tree.${name};
          here = loc ++ [ name ];
        in
        if name == "_module" then [ ]
        else if (option._type or "") != "option" then walk here option
        else if option.internal or false then [ ]
        else [ {
          name = builtins.concatStringsSep "." (option.loc or here);
          type = option.type.description;
          default = if option ? defaultText then shown option.defaultText else if option ? default then shown option.default else "";
          example = if option ? example then shown option.example else "";
          description = option.description or "";
        } ] ++ walk here (option.type.getSubOptions here))
      (attrNames tree));
in
walk [ ] evaluated.options
