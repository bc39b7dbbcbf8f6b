#!/usr/bin/env bash
# Runs `make test`. The programs that the later checks need are built during the earlier ones, which leave a processor idle at
# times: that saves much of an hour on a new machine.
set -euo pipefail
cd "$(dirname "$0")/.."

log=.build/test-programs.log
mkdir -p .build
nice -n 19 make -s --no-print-directory test-programs >"$log" 2>&1 &
programs=$!

# The child is in the background too, since a signal ends wait, but not a command in the foreground.
child=
trap 'kill $child 2>/dev/null; exit 130' INT TERM
trap 'kill $programs 2>/dev/null || true' EXIT
run() {
  "$@" &
  child=$!
  wait "$child"
  child=
}

run make --no-print-directory unit verify-generated lint site-test
while kill -0 "$programs" 2>/dev/null; do
  tail -n 1 "$log"
  sleep 8 &
  wait $!
done
wait "$programs" || {
  cat "$log" >&2
  exit 1
}
run make --no-print-directory integration e2e-core
