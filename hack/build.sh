#!/usr/bin/env bash
# Builds a Go program, and is never silent for long: the Kubernetes API server takes minutes the first time.
#
#   hack/build.sh OUTPUT MODULE_DIR PACKAGE [LDFLAGS]
#
# Prints the progress every 8 seconds, and nothing for a shorter build.
# The program appears under its name only when it is whole.
set -euo pipefail

output=$1 module=$2 package=$3 ldflags="-s -w ${4:-}"
name=$(basename "$output")
mkdir -p "$(dirname "$output")"
output=$(cd "$(dirname "$output")" && pwd)/$name
logs=$(mktemp -d)
child=

finish() {
  [ -z "$child" ] || kill "$child" 2>/dev/null || true
  rm -rf "$logs" "$output.$$.new"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '  %s: %s after %dm%02ds\n' "$name" "$1" $((SECONDS / 60)) $((SECONDS % 60)) >&2; }

# during STEP: runs it in the background, prints its progress, and returns its exit status.
next=8
during() {
  "$1" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    if [ "$SECONDS" -ge "$next" ]; then
      say "$("$1_progress")"
      next=$((SECONDS + 8))
    fi
    sleep 0.2
  done
  local status=0
  wait "$child" || status=$?
  child=
  if [ "$status" -ne 0 ]; then
    cat "$logs/$1" >&2
    say "failed"
  fi
  return "$status"
}

download() { exec go -C "$module" list -deps "$package" >"$logs/packages" 2>"$logs/download"; }
download_progress() { echo "$(grep -c '^go: downloading' "$logs/download") modules downloaded"; }

# With -v Go names each package that it compiles; those in its cache already go unnamed.
compile() { exec go -C "$module" build -v -ldflags "$ldflags" -o "$output.$$.new" "$package" 2>"$logs/compile"; }
compile_progress() {
  if grep -qx "$main" "$logs/compile"; then
    echo "linking"
  else
    echo "$(wc -l <"$logs/compile") of at most $(wc -l <"$logs/packages") packages compiled"
  fi
}

# Go does not link again over a program that is as it would link it.
[ ! -x "$output" ] || ln -f "$output" "$output.$$.new" 2>/dev/null || true

during download
main=$(tail -n 1 "$logs/packages") # the package itself comes after all that it needs
during compile
if [ "$output.$$.new" -ef "$output" ]; then
  rm "$output.$$.new"
else
  mv "$output.$$.new" "$output"
fi
[ "$SECONDS" -lt 8 ] || say "built"
