#!/usr/bin/env bash
# Writes again every file that is made from others. Each step writes the same bytes when nothing changed.
set -euo pipefail
cd "$(dirname "$0")/.."

# Deep copies of the API types.
.build/controller-gen object paths=./api/...

# The schema and the table of the chart's values, and config/, all from the chart.
(cd tools && go run ./chart --root ..)
