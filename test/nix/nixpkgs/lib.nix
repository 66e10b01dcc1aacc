let
  lib = import ./lib;
in
lib // {
  nixosSystem = { modules, specialArgs ? { }, ... }: lib.evalModules {
    inherit specialArgs;
    modules = modules ++ [ ./nixos.nix ./nixos-more.nix { _module.args.pkgs = import ./packages.nix; } ];
  };
}
