# A project folder of `blixard fn new`, built into a module by `blixard fn build`: a package with NAME.wasm, whose
# path is its `wasm`.
#
# C and C++ are compiled by nixpkgs' clang for WASI.  Rust needs a rustc that has the standard library of wasm32-wasi, which
# nixpkgs' own has not: `packages` names one (rust-overlay, fenix).  The compiler of AssemblyScript is fetched as npm has it.
# A function in JavaScript is more than a module: its scripts are assets beside the engine.
{ lib, pkgs, blixard }:
{ name, src, language ? null, packages ? null }:
let
  # Read while Nix evaluates; a source that is built first would be built for that (import from derivation), which `nix flake
  # check` and many a server refuse.
  isBuilt = lib.any (context: context ? outputs) (builtins.attrValues (builtins.getContext "${src}"));
  manifest = "${src}/blixard.yaml";
  lines = if builtins.pathExists manifest then lib.splitString "\n" (builtins.readFile manifest) else [ ];
  found = lib.filter (match: match != null) (map (builtins.match "language: *([a-z]+) *") lines);
  spoken =
    if language != null then language
    else if isBuilt then throw "blixard: ${name}: its source is a package, whose blixard.yaml is there only when it is built: say its `language`"
    else if found != [ ] then lib.head (lib.head found)
    else "c";

  # By the name that `fn build` looks for; what it says of a sysroot goes behind what the wrapper has said.
  wasi = pkgs.pkgsCross.wasi32.stdenv.cc;
  compiler = program: pkgs.writeShellScriptBin program ''exec ${wasi}/bin/${wasi.targetPrefix}${program} "$@"'';
  clang = {
    packages = [ (compiler "clang") (compiler "clang++") pkgs.llvmPackages.lld ];
    environment.WASI_SYSROOT = "${wasi.libc}";
  };

  # What `fn build` would have npm bring, where it looks for it: archives of sources, of which nothing is run but the compiler.
  modules = "$HOME/.cache/blixard/assemblyscript/node_modules";
  unpacked = package: version: hash: ''
    mkdir -p ${modules}/${package}
    tar -xzf ${pkgs.fetchurl {
      url = "https://registry.npmjs.org/${package}/-/${baseNameOf package}-${version}.tgz";
      inherit hash;
    }} --strip-components=1 --no-same-owner -C ${modules}/${package}
  '';
  assemblyscript = {
    packages = [ pkgs.nodejs ];
    prepare = lib.concatStringsSep "" [
      (unpacked "assemblyscript" "0.28.20" "sha512-5PM7GZpvcLypHcLmi30aP8mqm5HjU+LL3BdV1xDyA3USGtL2w+iMiUnhtH+vW8+2kOuHlAyPu7M+QgyEw5he1g==")
      (unpacked "@assemblyscript/wasi-shim" "0.1.0" "sha512-fSLH7MdJHf2uDW5llA5VCF/CG62Jp2WkYGui9/3vIWs3jDhViGeQF7nMYLUjpigluM5fnq61I6obtCETy39FZw==")
      (unpacked "binaryen" "131.0.0-nightly.20260721" "sha512-AAQIkhfbYXh4FBObwBrlO+5L+6Rp6OOMOjh6AdT0M+GLNLyrwKWgtW+EzmizNgx9CWDfTJPfDtKoZi62QESbtg==")
      (unpacked "long" "5.3.2" "sha512-mNAgZ1GmyNhD7AuqnTG3/VQ26o760+ZYBPKjPvugO8+nLbYfX6TVpJPseBvopbdY+qpZ/lKUnmEc1LeZYS3QAA==")
    ];
  };

  compilers = {
    inherit assemblyscript;
    c = clang;
    cpp = clang;
    rust = throw "blixard: ${name}: nixpkgs' rustc has no standard library for WASI: give `packages`, a rustc and a cargo that have it (of fenix or rust-overlay, as in the template function-rust)";
    javascript = throw "blixard: ${name}: the scripts of a function in JavaScript are assets beside its engine, and no module holds them: deploy its folder (blixard fn deploy)";
  };
  chosen =
    if packages != null then { inherit packages; }
    else compilers.${spoken} or (throw "blixard: ${name}: there is no language ${spoken}; there are ${lib.concatStringsSep ", " (builtins.attrNames compilers)}");
  module = pkgs.runCommand "${name}-function"
    ({ nativeBuildInputs = [ blixard pkgs.binaryen ] ++ chosen.packages; } // chosen.environment or { })
    ''
      cp -r ${src} project
      chmod -R u+w project
      export HOME=$PWD SOURCE_DATE_EPOCH=1
      ${chosen.prepare or ""}
      module=$(blixard fn build project)
      mkdir -p $out
      cp "$module" $out/${name}.wasm
    '';
in
module // { wasm = "${module}/${name}.wasm"; }
