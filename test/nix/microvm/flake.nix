{
  description = "What the templates need of microvm.nix, as names";
  outputs = { self }: { nixosModules.microvm = { }; };
}
