# Claims about the stand-in: each attribute must be true.
let
  lib = import ./default.nix;
  inherit (lib) mkOption types mkIf mkMerge mkDefault mkForce mkAfter mkBefore;
  value = modules: (lib.evalModules { inherit modules; }).config;
  fails = x: !(builtins.tryEval (builtins.deepSeq x x)).success;
  list = { options.x = mkOption { type = types.listOf types.int; default = [ 9 ]; }; };
  number = { options.x = mkOption { type = types.int; default = 1; }; };
  sub = { options.x = mkOption { type = types.attrsOf (types.submodule ({ name, config, ... }: {
    freeformType = types.attrsOf types.int;
    options.a = mkOption { type = types.str; default = name; };
    options.b = mkOption { type = types.str; };
    config.b = mkDefault "${config.a}!";
  })); default = { }; }; };
in
{
  a_default_stands_until_something_is_defined = (value [ number ]).x == 1 && (value [ number { x = 2; } ]).x == 2;
  lists_are_joined_and_replace_the_default = (value [ list { x = [ 1 ]; } { x = [ 2 ]; } ]).x == [ 1 2 ];
  lists_have_an_order = (value [ list { x = mkAfter [ 1 ]; } { x = [ 2 ]; } { x = mkBefore [ 3 ]; } ]).x == [ 3 2 1 ];
  force_goes_before_plain_and_plain_before_default = (value [ number { x = 2; } { x = mkForce 3; } { x = mkDefault 4; } ]).x == 3;
  two_values_of_one_strength_conflict = fails (value [ number { x = 2; } { x = 3; } ]).x;
  equal_values_do_not = (value [ number { x = 2; } { x = 2; } ]).x == 2;
  a_condition_that_is_false_defines_nothing = (value [ number (mkIf false { x = throw "no"; }) ]).x == 1;
  conditions_may_ask_for_other_options = (value [ number { options.y = mkOption { type = types.bool; default = true; }; } ({ config, ... }: mkIf config.y { x = 5; }) ]).x == 5;
  merges_nest = (value [ list (mkMerge [ { x = [ 1 ]; } (mkIf true { x = mkMerge [ [ 2 ] (mkIf false [ 3 ]) ]; }) ]) ]).x == [ 1 2 ];
  what_is_not_declared_is_refused = fails (value [ number { y = 1; } ]);
  a_wrong_type_is_refused = fails (value [ number { x = "1"; } ]).x;
  no_value_is_an_error = fails (value [ { options.x = mkOption { type = types.int; }; } ]).x;
  submodules_know_their_name = (value [ sub { x.one = { }; } ]).x == { one = { a = "one"; b = "one!"; }; };
  submodules_take_what_is_free = (value [ sub { x.one.z = 3; } ]).x.one.z == 3;
  free_values_have_their_type = fails (value [ sub { x.one.z = "3"; } ]).x.one.z;
  submodules_are_merged = (value [ sub { x.one.a = "A"; } { x.one.z = 1; x.two.b = "B"; } ]).x == { one = { a = "A"; b = "A!"; z = 1; }; two = { a = "two"; b = "B"; }; };
  attributes_may_be_conditional = (value [ sub { x.one = mkIf false { }; x.two = { }; } ]).x == { two = { a = "two"; b = "two!"; }; };
  null_or_something = (value [ { options.x = mkOption { type = types.nullOr types.int; default = null; }; } { x = 3; } ]).x == 3;
  enum_refuses_others = fails (value [ { options.x = mkOption { type = types.enum [ "a" ]; }; } { x = "b"; } ]).x;
  apply_has_the_last_word = (value [ { options.x = mkOption { type = types.int; apply = n: n + 1; }; } { x = 3; } ]).x == 4;
  what_is_read_only_is_said_once = (value [ { options.x = mkOption { type = types.int; readOnly = true; }; } { x = 3; } ]).x == 3;
  a_default_of_what_is_read_only_counts = fails (value [ { options.x = mkOption { type = types.int; default = 3; readOnly = true; }; } { x = 3; } ]).x;
  imports_are_followed = (value [ { imports = [ number ({ lib, ... }: { x = 7; }) ]; } ]).x == 7;
  arguments_come_from_args = (value [ number { _module.args.n = 8; } ({ n, ... }: { x = n; }) ]).x == 8;
}
