#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in a VM the test binaries of /t/plan: lines of a number, a path, a linker or -, and a pattern of tests or none.
# The arguments are for each of them. The lines with ##suite are for sections.go.

# What is about the daemon's clients, its own process or its disk is the same on every kernel: it is tested on the host only.
host='^Test(Lease|Reload|Downgrade|NamesOf|Storage|Huge|Crowd|Endless|Garbage|Scale|Soak|StuckInterface|ManyClients|ListWhile)'
while read -r number binary linker tests; do
  cd "${binary%/*}" || exit
  echo "##suite begin $number"
  skip=$host
  # Those tests are of the inline linker, whichever the others use.
  [ "$linker" = freplace ] && skip="$host|^TestInline"
  XDPD_TEST_LINKER=${linker#-} "$binary" "$@" -test.skip="$skip" -test.run="$tests" </dev/null 2>&1
  printf '\n##suite end %s %s\n' "$number" "$?"
done </t/plan
