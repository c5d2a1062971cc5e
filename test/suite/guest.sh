#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs in a VM the test binaries of /t/plan: lines of a number, a path and, for some, a linker.
# The arguments are for each of them. The lines with ##suite are for sections.go.
while read -r number binary linker; do
  cd "${binary%/*}" || exit
  echo "##suite begin $number"
  skip=^$
  # Those tests are of the inline linker, whichever the others use.
  [ "$linker" = freplace ] && skip='^TestInline'
  XDPD_TEST_LINKER=$linker "$binary" "$@" -test.skip="$skip" </dev/null 2>&1
  printf '\n##suite end %s %s\n' "$number" "$?"
done </t/plan
