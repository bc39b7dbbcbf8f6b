#!/usr/bin/env bash
# Runs `make demo`: shows each part as soon as it is built. With --keep it leaves everything running until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each child has a process group of its own, so that a signal reaches what it has started. It is in the background, since a
# signal ends wait, but not a command in the foreground.
set -m
child='' meanwhile=''
trap '[ -z "$child" ] || kill -- "-$child" 2>/dev/null || true; [ -z "$meanwhile" ] || kill "$meanwhile" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
run() {
  "$@" 3<&- &
  child=$!
  wait "$child"
  child=
}

run hack/build.sh .build/inject . ./cli/manifests/inject
run hack/injection.sh .build/inject

# What is shown last is downloaded and compiled meanwhile, when the rest leaves a processor idle. The demo reads the output; once
# nobody can, the next line of progress ends this too.
exec 3< <(exec nice -n 19 make -s --no-print-directory demo-meanwhile 2>&1)
meanwhile=$!

run make -s --no-print-directory control-plane
run hack/build.sh .build/demo e2e ./cmd/demo
cd e2e
exec ../.build/demo --meanwhile 3 "$@"
