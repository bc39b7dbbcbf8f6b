#!/usr/bin/env bash
# Generates, and fails when that changed anything. Work that is not committed yet does not disturb it.
set -euo pipefail
cd "$(dirname "$0")/.."

# One line per file that git knows or would add: checksum and name.
snapshot() { git ls-files -z --cached --others --exclude-standard | xargs -0 -r sha256sum 2>/dev/null || true; }

before=$(snapshot)
hack/generate.sh
after=$(snapshot)
stale=$({ diff <(echo "$before") <(echo "$after") || true; } | sed -n 's/^[<>] [0-9a-f]*  //p' | sort -u)
if [ -n "$stale" ]; then
  printf 'These generated files were stale. make generate has just written them again; commit them:\n%s\n' "$stale" >&2
  exit 1
fi
