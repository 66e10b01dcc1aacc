# The NixOS module: services.blixard.
{
  imports = [
    ./options.nix
    ./workloads.nix
    ./documents.nix
    ./assertions.nix
    ./daemon.nix
    ./apply.nix
  ];
}
