{
  description = "What the templates need of fenix, as names";
  outputs = { self }:
    let component = name: "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-${name}"; in
    {
      packages.x86_64-linux = {
        combine = components: component "rust-${toString (builtins.length components)}";
        stable = { cargo = component "cargo"; rustc = component "rustc"; };
        targets.wasm32-wasip1.stable.rust-std = component "rust-std";
      };
    };
}
