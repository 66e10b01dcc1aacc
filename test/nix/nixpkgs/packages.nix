# Derivations that are never built: their names and inputs are what is looked at.
let
  lib = import ./lib;
  make = { name, ... }@arguments:
    let
      plain = lib.filterAttrs (_: value: builtins.isString value || builtins.isInt value || lib'.isDerivationLike value) (removeAttrs arguments [ "meta" "passthru" ]);
      built = derivation (plain // { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "exit 1" ]; });
    in
    built // { meta = arguments.meta or { }; passthru = arguments.passthru or { }; overrideAttrs = f: make (arguments // f arguments); } // (arguments.passthru or { });
  lib' = lib // { isDerivationLike = x: builtins.isAttrs x && x ? drvPath; };
  package = name: make { inherit name; };
  names = [
    "coreutils" "gnused" "kmod" "e2fsprogs" "jq" "curl" "qemu_kvm" "cloud-hypervisor" "firecracker" "erofs-utils" "wabt" "binaryen"
    "gcc" "binutils" "nodejs" "rustc" "cargo" "makeWrapper" "meson" "ninja" "pkg-config" "python3" "libuv"
    "raft-cowsql" "sqlite" "openssl" "jansson" "libyaml" "libseccomp" "libcap_ng" "zlib" "libarchive" "nghttp2" "libnl"
    "nftables" "systemd" "hiredis" "libnats-c" "rdkafka" "rabbitmq-c" "mosquitto" "virtiofsd" "clang-tools" "cppcheck" "nix"
    "linuxHeaders" "postgresql"
  ];
  self = builtins.listToAttrs (map (name: { inherit name; value = package name; }) names) // {
    lib = lib';
    stdenv = {
      hostPlatform.system = "x86_64-linux";
      cc.libc = { inherit (self) linuxHeaders; static = package "glibc-static"; };
      mkDerivation = arguments: makeWith (arguments // { name = "${arguments.pname}-${arguments.version}"; });
    };
    llvmPackages = { clang-unwrapped = package "clang"; lld = package "lld"; };
    pkgsCross.wasi32.stdenv.cc = package "wasi-clang" // { targetPrefix = "wasm32-unknown-wasi-"; libc = package "wasilibc"; };
    writeShellScriptBin = name: text: make { inherit name text; };
    fetchurl = { url, hash }: make { name = baseNameOf url; inherit hash; };
    fetchFromGitHub = { owner, repo, rev, hash, ... }: make { name = "${owner}-${repo}-${rev}"; inherit hash; };
    runCommand = name: environment: script: makeWith (environment // { inherit name script; });
    writeText = name: text: make { inherit name text; };
    mkShell = arguments: make { name = "shell"; };
    testers.runNixOSTest = test: makeWith { name = "vm-test-${test.name}"; nodes = builtins.attrNames test.nodes; evaluated = builtins.mapAttrs (_: node: (import ./lib.nix).nixosSystem { modules = [ node ]; }) test.nodes; };
    callPackage = path: more:
      let f = import path; in
      f (builtins.mapAttrs (name: _: more.${name} or self.${name} or (throw "callPackage: there is no ${name}"))
        (lib.filterAttrs (name: hasDefault: more ? ${name} || self ? ${name} || !hasDefault) (builtins.functionArgs f)) // { });
    path = "/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-nixpkgs";
    system = "x86_64-linux";
  };
  # Lists become words, sets are left out.
  makeWith = arguments:
    let
      words = builtins.mapAttrs (_: value: if builtins.isList value then toString value else value)
        (lib.filterAttrs (_: value: builtins.isString value || builtins.isList value || (builtins.isAttrs value && value ? outPath)) (removeAttrs arguments [ "meta" "passthru" "nodes" "evaluated" ]));
      built = derivation (words // { inherit (arguments) name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "exit 1" ]; });
    in
    built // { meta = arguments.meta or { }; passthru = arguments.passthru or { }; } // (arguments.passthru or { })
    // lib.optionalAttrs (arguments ? evaluated) { inherit (arguments) nodes evaluated; };
in
self
