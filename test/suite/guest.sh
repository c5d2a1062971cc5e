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
  # The whole of these runs with the inline linker on the machine's own kernel: here it is what a kernel has a say in.
  only=
  case "$linker $binary $*" in
  inline*/e2e.test*-test.run=\ *)
    only='^Test(Continuity|FullChain|Kill|RandomOperations|SharedMaps|Settings|Trace|Undone|UndoOf.*)$' ;;
  esac
  XDPD_TEST_LINKER=$linker "$binary" "$@" -test.skip="$skip" ${only:+-test.run="$only"} </dev/null 2>&1
  printf '\n##suite end %s %s\n' "$number" "$?"
done </t/plan
