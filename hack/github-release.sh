#!/usr/bin/env bash
# Creates the GitHub release of a tag with the files of dist/ that checksums.txt names.
#
#   hack/github-release.sh VERSION NOTES
#
# NOTES is a file. It needs gh, with GH_TOKEN and GH_REPO. gh publishes a release once it has all of its files. After a failure
# this can run again: it replaces a draft, leaves a published release with the same files, and fails if it has others. It deletes
# nothing but a draft.
# GitHub shows a pre-release (v0.2.0-rc.1) as such, and never as the latest release.
set -euo pipefail
version=$1 notes=$(realpath "$2")
cd "$(dirname "$0")/../dist"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if draft=$(gh release view "$version" --json isDraft --jq .isDraft 2>"$work/errors"); then
  case $draft in
  true) gh release delete "$version" --yes ;;
  false)
    gh release download "$version" --dir "$work/published"
    if cmp -s checksums.txt "$work/published/checksums.txt" && (cd "$work/published" && sha256sum --check --strict --quiet checksums.txt); then
      echo "$version is published already, with these files"
      exit 0
    fi
    echo "$version is published already, with other files: release another version" >&2
    exit 1
    ;;
  *)
    echo "gh release view says neither true nor false for isDraft, so that nothing was changed: ${draft:0:200}" >&2
    exit 1
    ;;
  esac
elif [ "$(cat "$work/errors")" != "release not found" ]; then
  cat "$work/errors" >&2
  exit 1
fi

mapfile -t files < <(cut -d " " -f 3 checksums.txt)
prerelease=false
[[ $version != *-* ]] || prerelease=true
gh release create "$version" --verify-tag --title "$version" --notes-file "$notes" --prerelease=$prerelease \
  "${files[@]}" checksums.txt checksums.txt.sigstore.json
