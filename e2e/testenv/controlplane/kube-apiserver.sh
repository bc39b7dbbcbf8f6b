#!/bin/sh
# Starts the API server of the tests with less garbage collection: tests/crds took a seventh less processor time.
GOGC=400 exec "$ISTIOD_AGENT_TESTS_APISERVER" "$@"
