# A project folder of `blixard fn new`, built into a module by `blixard fn build`: the path of the module.
#
# C and C++ are compiled by clang for the WASI target, Rust by a rustc that has wasm32-wasi.  AssemblyScript and
# JavaScript have their compiler from npm, which Nix lets nobody ask: `npmCache` is what one build outside has left in
# ~/.cache/blixard.
{ lib, pkgs, blixard }:
{ name, src, language ? null, npmCache ? null, packages ? null }:
let
  manifest = "${src}/blixard.yaml";
  line =
    let found = lib.filter (l: builtins.match "language: *[a-z]+ *" l != null) (lib.splitString "\n" (builtins.readFile manifest)); in
    if builtins.pathExists manifest && found != [ ] then lib.head (builtins.match "language: *([a-z]+) *" (lib.head found)) else "c";
  spoken = if language != null then language else line;
  npm =
    if npmCache != null then [ pkgs.nodejs ]
    else throw "blixard: ${name}: ${spoken} has its compiler from npm, which cannot be asked within a build: give `npmCache`, a copy of ~/.cache/blixard after one `blixard fn build`, or build it outside and give `wasm`";
  compilers = {
    c = [ pkgs.llvmPackages.clang-unwrapped pkgs.llvmPackages.lld ];
    cpp = [ pkgs.llvmPackages.clang-unwrapped pkgs.llvmPackages.lld ];
    javascript = npm;
    rust = [ pkgs.rustc pkgs.cargo pkgs.llvmPackages.lld ];
    assemblyscript = npm;
  };
  tools = if packages != null then packages
    else compilers.${spoken} or (throw "blixard: ${name}: there is no language ${spoken}; there are ${lib.concatStringsSep ", " (builtins.attrNames compilers)}");
  module = pkgs.runCommand "${name}-function"
    ({ nativeBuildInputs = [ blixard pkgs.binaryen ] ++ tools; }
      // lib.optionalAttrs (lib.elem spoken [ "c" "cpp" ]) { WASI_SYSROOT = "${pkgs.pkgsCross.wasi32.wasilibc.dev or pkgs.pkgsCross.wasi32.wasilibc}"; })
    ''
      cp -r ${src} project
      chmod -R u+w project
      export HOME=$PWD SOURCE_DATE_EPOCH=1
      ${lib.optionalString (npmCache != null) "mkdir -p .cache && cp -r ${npmCache} .cache/blixard && chmod -R u+w .cache"}
      module=$(blixard fn build project)
      mkdir -p $out
      cp "$module" $out/${name}.wasm
    '';
in
"${module}/${name}.wasm"
