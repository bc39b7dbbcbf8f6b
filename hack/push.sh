#!/usr/bin/env bash
# Pushes a release, as `make release` has written it to dist/: each image for all its architectures, and the chart.
#
#   hack/push.sh REGISTRY TAG
#
# It logs in with what `docker login` has written ($HOME/.docker/config.json). A registry on this machine is asked over HTTP.
# It prints what it has pushed, one `NAME:TAG@DIGEST` a line, and fails if the registry has another digest than dist/images.txt.
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

while IFS=@ read -r reference digest; do
  name=${reference%:*}
  if [[ $reference != "$registry"/*:"$tag" ]]; then
    echo "dist/ has a release for another registry or tag, with $reference: make release VERSION=v$tag REGISTRY=$registry" >&2
    exit 1
  fi
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

chart_digest=$(.build/helm/helm push "${plain[@]}" "$chart" "oci://$registry/charts" 2>&1 | sed -n 's/^Digest: //p')
[ -n "$chart_digest" ] || { echo "the registry reports no digest of the chart" >&2; exit 1; }
echo "$registry/charts/istiod-agent:$tag@$chart_digest"
