#!/usr/bin/env bash
# Runs `make demo`: shows each part as soon as it is built. With --keep it leaves everything running until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

# The child is in the background, since a signal ends wait, but not a command in the foreground.
child=
trap 'kill $child 2>/dev/null; exit 130' INT TERM
run() {
  "$@" 3<&- &
  child=$!
  wait "$child"
  child=
}

run hack/build.sh .build/inject . ./cli/manifests/inject
run hack/injection.sh .build/inject

# What is shown last is downloaded and compiled meanwhile, when the rest leaves a processor idle. The demo reads the output;
# once nobody can, the next line of progress ends this too.
exec 3< <(nice -n 19 make -s --no-print-directory demo-meanwhile 2>&1 && echo "Everything is built.")

run make -s --no-print-directory control-plane
run hack/build.sh .build/demo e2e ./cmd/demo
cd e2e
exec ../.build/demo --meanwhile 3 "$@"
