#!/usr/bin/env bash
# Pushes a release: each image of dist/ under one name for all its architectures, and the chart beside them.
#
#   hack/push.sh REGISTRY TAG
#
# It logs in with what `docker login` has written ($HOME/.docker/config.json). A registry on this machine is asked over HTTP.
set -euo pipefail
cd "$(dirname "$0")/.."

registry=$1 tag=$2
chart=dist/istiod-agent-$tag.tgz
plain=()
[[ $registry != localhost:* ]] || plain=(--plain-http)
layouts=$(mktemp -d)
trap 'rm -rf "$layouts"' EXIT

images=(istiod-agent istiod-agent-webhook istiod-agent-traffic) architectures=(amd64 arm64)
missing() {
  echo "$1 is not there: $2" >&2
  exit 1
}
[ -e "$chart" ] || missing "$chart" "make chart"
for image in "${images[@]}"; do
  for architecture in "${architectures[@]}"; do
    archive=dist/$image-$tag-$architecture.tar
    [ -e "$archive" ] || missing "$archive" "make image ARCH=$architecture"
  done
done

for image in "${images[@]}"; do
  manifests=()
  for architecture in "${architectures[@]}"; do
    layout=$layouts/$image-$architecture
    mkdir "$layout"
    tar -xf "dist/$image-$tag-$architecture.tar" -C "$layout"
    .build/crane push "$layout" "$registry/$image:$tag-$architecture"
    manifests+=(--manifest "$registry/$image:$tag-$architecture")
  done
  .build/crane index append "${manifests[@]}" --tag "$registry/$image:$tag"
done
.build/helm/helm push "${plain[@]}" "$chart" "oci://$registry/charts"
