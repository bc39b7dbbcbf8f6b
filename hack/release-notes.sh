#!/usr/bin/env bash
# Prints the section of a version in CHANGELOG.md, and fails if there is none.
#
#   hack/release-notes.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."

notes=$(awk -v heading="## [$1]" 'index($0, "## ") == 1 { found = index($0, heading) == 1; next } found' CHANGELOG.md)
[ -n "${notes//[[:space:]]/}" ] || { echo "CHANGELOG.md has no section [$1]: rename [Unreleased]" >&2; exit 1; }
printf '%s\n' "$notes"
