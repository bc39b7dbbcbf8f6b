#!/usr/bin/env bash
# Runs `make test`. The programs that the later checks need are built during the earlier ones, which leave a processor idle at
# times: that saves many minutes on a new machine.
set -euo pipefail
cd "$(dirname "$0")/.."

log=.build/test-programs.log
mkdir -p .build
set -m # the build gets a process group of its own, which ends as a whole
nice -n 19 make -s --no-print-directory test-programs >"$log" 2>&1 &
programs=$!
set +m
trap '[ -z "$programs" ] || kill -- "-$programs" 2>/dev/null || true' EXIT

# In the foreground, where Ctrl-C and sudo's question for a password arrive.
make --no-print-directory unit verify-generated lint site-test
while kill -0 "$programs" 2>/dev/null; do
  tail -n 1 "$log"
  sleep 8
done
wait "$programs" || {
  cat "$log" >&2
  exit 1
}
programs=
make --no-print-directory integration e2e-core
