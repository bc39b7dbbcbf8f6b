#!/usr/bin/env bash
# Runs `make test`. Compilers and the linter keep the processors busy, while the integration tests often wait. So what these need is
# built during the unit tests, and the source, the tools and the site are checked during the integration tests.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .build

# As after Ctrl-C, the tests stop their servers.
children=''
trap 'for child in $children; do kill -INT -- "-$child" 2>/dev/null || true; done; wait' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start COMMAND...: runs it in the background, in a process group of its own, which ends as a whole; $! is its process.
start() {
  set -m
  "$@" </dev/null &
  set +m
  children="$children $!"
}
ended() { ! kill -0 "$1" 2>/dev/null; }
# succeeded PROCESS OUTPUT: shows the last line of the output until it has ended, and ends with its failure.
succeeded() {
  local status=0
  until ended "$1"; do
    tail -n 1 "$2"
    sleep 8
  done
  wait "$1" || status=$?
  [ "$status" -eq 0 ] || { cat "$2" >&2; exit "$status"; }
}

# In the foreground, where sudo's question for a password arrives.
make --no-print-directory test-packages
built=.build/programs.log
start nice -n 19 make -s --no-print-directory integration-programs >"$built" 2>&1
programs=$!
make --no-print-directory unit-product verify-generated
succeeded "$programs" "$built"

# Less nice than above: the tests leave little, and should not end long before. First what e2e-core needs when the integration tests have
# ended, then the site, which keeps one processor busy.
checked=.build/checks.log
echo "make site-test lint unit-tools runs beside the integration tests and e2e-core; its output follows."
start nice -n 10 make --no-print-directory e2e-programs site-test lint unit-tools >"$checked" 2>&1
checks=$! reported=''
start make --no-print-directory integration e2e-core
tests=$!
until ended "$tests"; do
  ! ended "$checks" || [ -n "$reported" ] || { succeeded "$checks" "$checked"; reported=yes; }
  sleep 1
done
wait "$tests"
[ -n "$reported" ] || succeeded "$checks" "$checked"
cat "$checked"
