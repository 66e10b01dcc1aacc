# A project folder of `blixard fn new`, built into a module by `blixard fn build`: a package with NAME.wasm, whose
# path is its `wasm`.
#
# C and C++ are compiled by nixpkgs' clang for WASI.  Rust needs a rustc that has the standard library of wasm32-wasi, which
# nixpkgs' own has not: `packages` names one (rust-overlay, fenix).  AssemblyScript and JavaScript have their compiler from
# npm, which Nix lets nobody ask: `npmCache` is what one build outside has left in ~/.cache/blixard.
{ lib, pkgs, blixard }:
{ name, src, language ? null, npmCache ? null, packages ? null }:
let
  manifest = "${src}/blixard.yaml";
  line =
    let found = lib.filter (l: builtins.match "language: *[a-z]+ *" l != null) (lib.splitString "\n" (builtins.readFile manifest)); in
    if builtins.pathExists manifest && found != [ ] then lib.head (builtins.match "language: *([a-z]+) *" (lib.head found)) else "c";
  spoken = if language != null then language else line;

  # By the name that `fn build` looks for; what it says of a sysroot goes behind what the wrapper has said.
  wasi = pkgs.pkgsCross.wasi32.stdenv.cc;
  compiler = program: pkgs.writeShellScriptBin program ''exec ${wasi}/bin/${wasi.targetPrefix}${program} "$@"'';
  clang = {
    packages = [ (compiler "clang") (compiler "clang++") pkgs.llvmPackages.lld ];
    environment.WASI_SYSROOT = "${wasi.libc}";
  };
  npm =
    if npmCache != null then { packages = [ pkgs.nodejs ]; environment = { }; }
    else throw "blixard: ${name}: ${spoken} has its compiler from npm, which cannot be asked within a build: give `npmCache`, a copy of ~/.cache/blixard after one `blixard fn build`, or build it outside and give `wasm`";
  compilers = {
    c = clang;
    cpp = clang;
    rust = throw "blixard: ${name}: nixpkgs' rustc has no standard library for WASI: give `packages`, a rustc and a cargo that have it (of fenix or rust-overlay, as in the template function-rust)";
    javascript = npm;
    assemblyscript = npm;
  };
  chosen =
    if packages != null then { inherit packages; environment = { }; }
    else compilers.${spoken} or (throw "blixard: ${name}: there is no language ${spoken}; there are ${lib.concatStringsSep ", " (builtins.attrNames compilers)}");
  module = pkgs.runCommand "${name}-function"
    ({ nativeBuildInputs = [ blixard pkgs.binaryen ] ++ chosen.packages; } // chosen.environment)
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
module // { wasm = "${module}/${name}.wasm"; }
