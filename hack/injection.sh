#!/usr/bin/env bash
# Shows what the injection changes in istiod's Deployment, as Istio's chart renders it (golden/testdata, which
# e2e/tests/golden keeps as the chart has it). It needs only the command inject, and no cluster.
#
#   hack/injection.sh INJECT
set -euo pipefail

inject=$1 istiod=golden/testdata/chart-default.yaml
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
colour=never bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  colour=always bold=$'\e[1m' plain=$'\e[0m'
fi

printf '\n%s%s%s\n\n' "$bold" "The patch: istiod's Deployment of Istio's chart (-), and with the agent (+)" "$plain"
"$inject" -f "$istiod" >"$dir/injected" 2>"$dir/report"
# The status is 1 where they differ. The first four lines are git's own headers.
git diff --no-index --no-ext-diff --color="$colour" "$istiod" "$dir/injected" | tail -n +5 || [ "${PIPESTATUS[0]}" = 1 ]
printf '\n%s\n' "$(cat "$dir/report")"
