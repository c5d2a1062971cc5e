#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what a target of the Makefile needs beside Go, on Debian and Ubuntu:
#
#   scripts/deps.sh SET...
#
#   vm        to run VMs
#   systemd   to run VMs with systemd
#   generate  to compile BPF objects
#   test      all, a C compiler for the race detector, and the XDP packages whose
#             objects the tests load
#
# It says and does nothing when all is there. Elsewhere it checks for the commands and
# says what is missing.
set -euo pipefail

declare -A sets=(
  [vm]='qemu-system-x86 busybox-static xz-utils zstd'
  [systemd]='qemu-system-x86 busybox-static xz-utils zstd e2fsprogs'
  [generate]='clang llvm libbpf-dev linux-libc-dev'
  [test]='qemu-system-x86 busybox-static xz-utils zstd e2fsprogs clang llvm libbpf-dev linux-libc-dev gcc libc6-dev'
)
# Not every release has these; what is not there is not tested.
declare -A wishes=([test]='libxdp1 xdp-tools xdp-tests')
declare -A commands=(
  [vm]='qemu-system-x86_64 busybox xz'
  [systemd]='qemu-system-x86_64 busybox xz mke2fs'
  [generate]='clang llvm-strip'
  [test]='qemu-system-x86_64 busybox xz mke2fs clang llvm-strip gcc'
)

say() { echo "deps: $*" >&2; }
fail() { say "$@"; exit 1; }
root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }
installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }
# available says whether apt could install the package.
available() { [[ $(apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [^\(] ]]; }
have_lists() { compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null; }
update() { say "apt-get update"; root apt-get -qq update >&2; }

if (($# == 0)); then fail "usage: scripts/deps.sh SET..."; fi
for set; do [[ ${sets[$set]:-} ]] || fail "no set $set, but: ${!sets[*]}"; done
command -v go >/dev/null || fail "no go here: install Go $(awk '$1 == "go" { print $2 }' go.mod) or later"

if ! command -v apt-get >/dev/null; then
  for set; do
    for command in ${commands[$set]}; do
      command -v "$command" >/dev/null || fail "no $command here, and this is neither Debian nor Ubuntu: install it"
    done
  done
  exit 0
fi

wanted=() wished=()
for set; do
  for package in ${sets[$set]}; do installed "$package" || wanted+=("$package"); done
  for package in ${wishes[$set]:-}; do installed "$package" || wished+=("$package"); done
done
((${#wanted[@]} + ${#wished[@]})) || exit 0
if ((EUID != 0)) && ! command -v sudo >/dev/null; then
  fail "as root, or with sudo, install: ${wanted[*]} ${wished[*]}"
fi

have_lists || update
for package in "${wished[@]}"; do
  if available "$package"; then wanted+=("$package"); else say "this release has no $package: what it would be tested with is left out"; fi
done
((${#wanted[@]})) || exit 0
say "installing ${wanted[*]}"
install() { root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${wanted[@]}" >&2; }
# Lists that are old name packages that are gone.
install || { update; install; }
