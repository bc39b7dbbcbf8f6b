#!/usr/bin/env bash
# Pushes a release, as `make release` has written it to dist/: each image for all its architectures, and the chart.
#
#   hack/push.sh REGISTRY TAG
#
# It logs in with what `docker login` has written ($HOME/.docker/config.json). A registry on this machine is asked over HTTP.
# It prints what it has pushed, one `NAME:TAG@DIGEST` a line, and fails if the registry has another digest than dist/images.txt.
# After a failure it can run again. It replaces nothing that the registry has under the tag, and ends if the registry does not
# say what it has.
set -euo pipefail
cd "$(dirname "$0")/.."

registry=$1 tag=$2
chart=dist/istiod-agent-$tag.tgz
plain=()
[[ $registry != localhost:* ]] || plain=(--plain-http)
layouts=$(mktemp -d)
manifest=$layouts/.manifest answer=$layouts/.answer
trap 'rm -rf "$layouts"' EXIT

command -v jq >/dev/null || { echo "jq is missing: it compares the chart's manifest" >&2; exit 1; }
for file in dist/images.txt "$chart"; do
  [ -e "$file" ] || { echo "$file is missing: make release VERSION=v$tag REGISTRY=$registry" >&2; exit 1; }
done

# read_manifest REFERENCE: writes what the registry has under it to $manifest, which is empty if it has nothing. With any other
# answer it ends: a push could replace what was not read. NOT_FOUND is Harbor's code.
read_manifest() {
  local absent='^Error: fetching manifest [^ ]*: GET [^ ]*/manifests/[^ ]*: (MANIFEST_UNKNOWN:|NAME_UNKNOWN:|NOT_FOUND:|unexpected status code 404( |$))'
  .build/crane manifest "$1" >"$manifest" 2>"$answer" && return
  : >"$manifest"
  grep -Eq "$absent" "$answer" || {
    cat "$answer" >&2
    echo "the registry does not say whether it has $1: run this again" >&2
    exit 1
  }
}

sha256() { sha256sum <"$1" | cut -d " " -f 1; }

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
  read_manifest "$reference"
  [ ! -s "$manifest" ] || [ "sha256:$(sha256 "$manifest")" = "$digest" ] || refuse_to_replace "$reference"
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

# has_chart: whether $manifest is Helm's, with the chart as its only content. The digest is what gets signed, so that nothing but
# Helm's fields is accepted: readers of JSON in Go take "Layers" for "layers" too.
has_chart() {
  jq --exit-status --arg digest "sha256:$(sha256 "$chart")" --argjson size "$(wc -c <"$chart")" '
    (keys - ["annotations", "mediaType"] == ["config", "layers", "schemaVersion"])
    and (.config | keys == ["digest", "mediaType", "size"] and .mediaType == "application/vnd.cncf.helm.config.v1+json")
    and .layers == [{mediaType: "application/vnd.cncf.helm.chart.content.v1.tar+gzip", $digest, $size}]
  ' "$manifest" >/dev/null 2>&1
}

# A chart's manifest has the time of its file, so that the same chart pushed twice has two digests. The registry is read once:
# its tag can change.
reference=$registry/charts/istiod-agent:$tag
read_manifest "$reference"
if [ ! -s "$manifest" ]; then
  .build/helm/helm push "${plain[@]}" "$chart" "oci://$registry/charts" >"$answer" 2>&1 || { cat "$answer" >&2; exit 1; }
  chart_digest=$(sed -n 's/^Digest: //p' "$answer")
elif has_chart; then
  chart_digest=sha256:$(sha256 "$manifest")
else
  refuse_to_replace "$reference"
fi
[ -n "$chart_digest" ] || { echo "the registry reports no digest of the chart" >&2; exit 1; }
echo "$reference@$chart_digest"
