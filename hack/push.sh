#!/usr/bin/env bash
# Pushes a release, as `make release` has written it to dist/: each image for all its architectures, and the chart.
#
#   hack/push.sh REGISTRY TAG
#
# It logs in with what `docker login` has written ($HOME/.docker/config.json). A registry on this machine is asked over HTTP.
# It prints what it has pushed, one `NAME:TAG@DIGEST` a line, and fails if the registry has another digest than dist/images.txt.
# After a failure it can run again. It replaces nothing that the registry has under the tag.
set -euo pipefail
cd "$(dirname "$0")/.."

registry=$1 tag=$2
chart=dist/istiod-agent-$tag.tgz
plain=()
[[ $registry != localhost:* ]] || plain=(--plain-http)
layouts=$(mktemp -d)
trap 'rm -rf "$layouts"' EXIT

for file in dist/images.txt "$chart"; do
  [ -e "$file" ] || { echo "$file is missing: make release VERSION=v$tag REGISTRY=$registry" >&2; exit 1; }
done

# refuse_to_replace REFERENCE
refuse_to_replace() {
  echo "the registry has another $1, which clusters may use: push another version, or delete it there" >&2
  exit 1
}

while IFS=@ read -r reference digest; do
  name=${reference%:*}
  if [[ $reference != "$registry"/*:"$tag" ]]; then
    echo "dist/ has a release for another registry or tag, with $reference: make release VERSION=v$tag REGISTRY=$registry" >&2
    exit 1
  fi
  existing=$(.build/crane digest "$reference" 2>/dev/null || true)
  [ -z "$existing" ] || [ "$existing" = "$digest" ] || refuse_to_replace "$reference"
  layout=$layouts/$(basename "$name")
  mkdir "$layout"
  tar -xf "dist/$(basename "$name")-$tag.tar" -C "$layout"
  pushed=$(.build/crane push "$layout" "$reference")
  if [ "$pushed" != "$name@$digest" ]; then
    echo "expected $name@$digest, pushed $pushed" >&2
    exit 1
  fi
  echo "$reference@$digest"
done <dist/images.txt

# A chart's manifest has the time of its file, so that the same chart pushed twice has two digests.
reference=$registry/charts/istiod-agent:$tag
existing=$(.build/crane manifest "$reference" 2>/dev/null || true)
if [[ $existing == *"$(sha256sum <"$chart" | cut -d " " -f 1)"* ]]; then
  chart_digest=$(.build/crane digest "$reference")
else
  [ -z "$existing" ] || refuse_to_replace "$reference"
  chart_digest=$(.build/helm/helm push "${plain[@]}" "$chart" "oci://$registry/charts" 2>&1 | sed -n 's/^Digest: //p')
fi
[ -n "$chart_digest" ] || { echo "the registry reports no digest of the chart" >&2; exit 1; }
echo "$reference@$chart_digest"
