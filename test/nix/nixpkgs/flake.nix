{
  description = "What nix/ needs of nixpkgs, as names";
  outputs = { self }: {
    lib = import ./lib.nix;
    legacyPackages.x86_64-linux = import ./packages.nix;
  };
}
