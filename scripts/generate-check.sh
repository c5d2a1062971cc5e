#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Makes all generated files anew and fails if that changes one of them:
#
#   scripts/generate-check.sh TARGET... -- FILE...      the Makefile's targets, and what they make
set -euo pipefail

targets=()
while [[ $1 != -- ]]; do targets+=("$1"); shift; done
shift

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp --parents -t "$before" "$@"
"${MAKE:-make}" --no-print-directory "${targets[@]}"
changed=0
for file; do
  diff -u --label "$file, as it was" --label "$file, made anew" "$before/$file" "$file" || changed=1
done
if ((changed)); then
  echo "generate-check: generated files were not up to date; they are now: commit them" >&2
  exit 1
fi
