# pkgs.blixard, and the wabt that it is made for.
final: prev: {
  blixard = final.callPackage ./package.nix { };
}
