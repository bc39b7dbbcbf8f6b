#!/usr/bin/env bash
# Prints the section of a version in CHANGELOG.md, and fails if there is none. That of a pre-release (0.2.0-rc.1) is Unreleased.
#
#   hack/release-notes.sh VERSION
set -euo pipefail
cd "$(dirname "$0")/.."

version=$1 section=$1
[[ $version != *-* ]] || section=Unreleased
notes=$(awk -v heading="## [$section]" 'index($0, "## ") == 1 { found = index($0, heading) == 1; next } found' CHANGELOG.md)
[ -n "${notes//[[:space:]]/}" ] || { echo "CHANGELOG.md has no section [$section]: rename [Unreleased]" >&2; exit 1; }
# The page of a release is in no directory of the sources: a link to a file names the tag.
sed -E "s|\]\(([^):#][^):]*)\)|](https://github.com/istiod-agent/istiod-agent/blob/v$version/\1)|g" <<<"$notes"
