#!/usr/bin/env bash
# Runs every fuzz test of the product's module, one after another, each for the given time.
#
#   hack/fuzz.sh 30s
set -euo pipefail

time=$1
tests=$(git grep --untracked -noE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' ':!e2e' ':!tools') || {
  echo "no fuzz test found" >&2
  exit 1
}
while IFS=: read -r file _ function; do
  name=${function#func }
  echo "$name in $(dirname "$file"), for $time"
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$(dirname "$file")" </dev/null
done <<<"$tests"
