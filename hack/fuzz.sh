#!/usr/bin/env bash
# Runs every fuzz test there is, one after another, each for the given time.
#
#   hack/fuzz.sh 30s
set -euo pipefail

time=$1
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Before Go 1.27 a run may fail with nothing but this when its time is over (https://go.dev/issue/75804).
only_time_was_over() {
  grep -A1 '^--- FAIL: ' "$log" | grep -qx ' *context deadline exceeded' && ! grep -q 'Failing input written' "$log"
}

tests=$(git grep --untracked -noE '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go') || {
  echo "no fuzz test found" >&2
  exit 1
}
while IFS=: read -r file _ function; do
  name=${function#func }
  echo "$name in $(dirname "$file"), for $time"
  go -C "$(dirname "$file")" test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x </dev/null | tee "$log" || only_time_was_over
done <<<"$tests"
