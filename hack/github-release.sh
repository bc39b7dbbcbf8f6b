#!/usr/bin/env bash
# Creates the GitHub release of a tag with the files of dist/ that checksums.txt names.
#
#   hack/github-release.sh VERSION NOTES
#
# NOTES is a file. It needs gh, with GH_TOKEN and GH_REPO. gh publishes a release once it has all of its files. After a failure
# this can run again: it replaces a draft, leaves a published release with the same files, and fails if it has others.
# GitHub shows a pre-release (v0.2.0-rc.1) as such, and never as the latest release.
set -euo pipefail
version=$1 notes=$(realpath "$2")
cd "$(dirname "$0")/../dist"

if draft=$(gh release view "$version" --json isDraft --jq .isDraft 2>&1); then
  if [ "$draft" = false ]; then
    if gh release download "$version" --pattern checksums.txt --output - | cmp -s - checksums.txt; then
      echo "$version is published already, with these files"
      exit 0
    fi
    echo "$version is published already, with other files: release another version" >&2
    exit 1
  fi
  gh release delete "$version" --yes
elif [ "$draft" != "release not found" ]; then
  echo "$draft" >&2
  exit 1
fi

mapfile -t files < <(cut -d " " -f 3 checksums.txt)
prerelease=false
[[ $version != *-* ]] || prerelease=true
gh release create "$version" --verify-tag --title "$version" --notes-file "$notes" --prerelease=$prerelease \
  "${files[@]}" checksums.txt checksums.txt.sigstore.json
