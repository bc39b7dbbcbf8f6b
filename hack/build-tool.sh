#!/usr/bin/env bash
# Builds a program of another project, pinned in a Go module of ours, and is never silent for long.
#
#   hack/build-tool.sh MODULE_DIR PACKAGE OUTPUT [LDFLAGS]
#
# The Kubernetes API server takes minutes the first time: every 15 seconds a line says how far it is.
# The program appears under its name only when it is whole.
set -euo pipefail

module=$1 package=$2 output=$3 ldflags="-s -w ${4:-}"
name=$(basename "$output")
mkdir -p "$(dirname "$output")"
output=$(cd "$(dirname "$output")" && pwd)/$name

export CGO_ENABLED=0 # no C compiler is needed
# What is built here runs here, whatever the caller cross-compiles for.
unset GOOS GOARCH

work=$(mktemp -d)
child=
finish() {
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
  rm -rf "$work" "$output.new"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '%s: %s\n' "$name" "$*" >&2; }
elapsed() { printf '%dm%02ds' $((SECONDS / 60)) $((SECONDS % 60)); }

# watch PROGRESS COMMAND: runs the command, which execs, and says its progress every 15 seconds until it ends.
watch() {
  local progress=$1
  shift
  "$@" &
  child=$!
  local next=$((SECONDS + 15))
  while kill -0 "$child" 2>/dev/null; do
    if [ "$SECONDS" -ge "$next" ]; then
      say "$(elapsed), $($progress)"
      next=$((SECONDS + 15))
    fi
    sleep 0.2
  done
  local status=0
  wait "$child" || status=$?
  child=
  return "$status"
}

fetched() { echo "$(grep -c '^go: downloading' "$work/fetch.log" || true) modules downloaded"; }
fetch() { exec go -C "$module" list -deps "$package" >"$work/packages" 2>"$work/fetch.log"; }

# go build -v names each package as its compilation starts; those already in Go's cache go unnamed.
compiled() {
  local count last
  count=$(grep -c . "$work/build.log" || true)
  last=$(tail -n 1 "$work/build.log")
  if [ "$last" = "$package" ]; then echo "linking"; else echo "$count of at most $total packages compiled, now ${last:-starting}"; fi
}
build() { exec go -C "$module" build -v -trimpath -buildvcs=false -ldflags "$ldflags" -o "$output.new" "$package" 2>"$work/build.log"; }

failed() {
  cat "$1" >&2
  say "failed after $(elapsed)"
  exit 1
}

say "building $package; the first time this takes minutes, later it is there already"
watch fetched fetch || failed "$work/fetch.log"
total=$(wc -l <"$work/packages")
watch compiled build || failed "$work/build.log"
mv "$output.new" "$output"
say "built in $(elapsed)"
