#!/usr/bin/env bash
# Signs what hack/push.sh has pushed, and the checksums in dist/, with the identity of the workflow that runs this: by cosign,
# without a key. Attaches to each platform's image its SBOM. Writes subjects.txt, for the provenance of all of it.
#
#   hack/sign.sh TAG PUBLISHED
#
# PUBLISHED is the output of hack/push.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

tag=$1 published=$2

# digest ARCHIVE: the digest of its only image.
digest() { tar -xOf "$1" index.json | sed -n 's/.*"digest": *"\([^"]*\)".*/\1/p' | head -n 1; }

cp dist/checksums.txt subjects.txt
while IFS=@ read -r reference digest; do
  name=${reference%:*}
  cosign sign --yes --recursive "$name@$digest"
  echo "${digest#sha256:}  $name" >>subjects.txt
  [[ $name != */charts/* ]] || continue # it has no programs
  for sbom in "dist/$(basename "$name")-$tag"-*.spdx.json; do
    cosign attest --yes --type spdxjson --predicate "$sbom" "$name@$(digest "${sbom%.spdx.json}.tar")"
  done
done <"$published"
cosign sign-blob --yes --bundle checksums.txt.sigstore.json dist/checksums.txt
