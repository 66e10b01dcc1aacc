# Blixard by Nix: the command line, the daemon, its runner, its monitor and the agent of machines.
#
# What compiles functions, and makes and runs machines, is on the path of the wrapped program, behind whatever
# is there already, so that an administrator's own goes before it.
{ lib
, stdenv
, fetchFromGitHub
, makeWrapper
, meson
, ninja
, pkg-config
, python3
, linuxHeaders ? stdenv.cc.libc.linuxHeaders
, libuv
, raft-cowsql
, sqlite
, openssl
, jansson
, libyaml
, libseccomp
, libcap_ng
, zlib
, libarchive
, nghttp2
, curl
, libnl
, nftables
, systemd
  # Without these the triggers of that kind are refused.
, hiredis
, libnats-c
, rdkafka
, rabbitmq-c
, mosquitto
  # At run time.
, wabt
, binaryen
, gcc
, binutils
, qemu_kvm
, e2fsprogs
, erofs-utils
, kmod
, virtiofsd
, src ? lib.cleanSourceWith {
    src = ../.;
    filter = path: type: !(type == "directory" && builtins.elem (baseNameOf path) [ "build" ".git" "result" ]);
  }
}:
let
  # What wasm2c writes changes with each version, and the code in function VMs is made for this one.
  wabt' = wabt.overrideAttrs (old: {
    version = "1.0.32";
    src = fetchFromGitHub {
      owner = "WebAssembly";
      repo = "wabt";
      rev = "1.0.32";
      hash = "sha256-kLPs/9tQtvUEOGsLtnK0uqJnCWTHR6JU7BCwtFEmIlQ=";
      fetchSubmodules = true;
    };
    cmakeFlags = [ "-DBUILD_TESTS=OFF" "-DCMAKE_PROJECT_VERSION=1.0.32" "-DCMAKE_POLICY_VERSION_MINIMUM=3.5" ];
  });
  programs = [ wabt' binaryen gcc binutils qemu_kvm e2fsprogs erofs-utils kmod virtiofsd ];
in
stdenv.mkDerivation {
  pname = "blixard";
  version = "0.1.0";
  inherit src;

  nativeBuildInputs = [ makeWrapper meson ninja pkg-config python3 ];
  buildInputs = [
    libuv raft-cowsql sqlite openssl jansson libyaml libseccomp libcap_ng zlib libarchive nghttp2 curl libnl nftables
    systemd hiredis libnats-c rdkafka rabbitmq-c mosquitto
  ];

  mesonFlags = [
    "-Dtests=false"
    "-Dwasm_rt_header=${wabt'}/include/wasm-rt.h"
    "-Dkernel_headers=${linuxHeaders}/include"
    # The agent is static, and looks nobody up by NSS: any C library will do.
    "-Dagent_flags=-L${stdenv.cc.libc.static}/lib"
  ];
  # Meson sets them itself, and the code of function VMs and the agent are built by rules of their own.
  hardeningDisable = [ "all" ];

  postPatch = ''
    patchShebangs tools
  '';
  postInstall = ''
    wrapProgram $out/bin/blixard --suffix PATH : ${lib.makeBinPath programs}
  '';

  passthru = {
    wabt = wabt';
    inherit programs;
  };

  meta = {
    description = "A cloud of functions and microVMs in one binary";
    license = lib.licenses.asl20;
    mainProgram = "blixard";
    platforms = [ "x86_64-linux" ];
  };
}
