#!/usr/bin/env bash
# Fails unless the sources are ready to be released as a version: chart and changelog have it.
#
#   hack/release-check.sh VERSION
#
# VERSION is the tag: v0.2.0, or v0.2.0-rc.1 for a pre-release. A release runs this before it builds anything.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$1
if ! [[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$ ]]; then # make and its shells would expand it
  echo "expected a tag such as v0.2.0 or v0.2.0-rc.1, got ${version@Q}" >&2
  exit 1
fi
chart=charts/istiod-agent/Chart.yaml
for field in version appVersion; do
  value=$(sed -n "s/^$field: *//p" "$chart")
  if [ "$value" != "${version#v}" ]; then
    echo "$chart: $field is $value, and the tag is $version: raise it to ${version#v}, commit, and move the tag" >&2
    exit 1
  fi
done
hack/release-notes.sh "${version#v}" >/dev/null
