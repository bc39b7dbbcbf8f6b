// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

// memoryLimit is what Go's heap keeps below, as far as it can, where GOMEMLIMIT is not set: the injected container has
// 64 MiB (api/config/v1alpha1).
const memoryLimit = 48 << 20

// shortLivedGCPercent keeps the collector from the few megabytes of an init container. From its start to the published files,
// beyond Vault's calls, `make bench SECTIONS=agent` found 21 to 23 ms with this, 22 to 26 with Go's default of 100.
const shortLivedGCPercent = 400

// longLivedGCPercent collects the sidecar's heap of 2 MiB when it has grown by a quarter, in less than a millisecond. Without
// it, and with all processors, `make bench SECTIONS=agent` found 18.6 MiB at rest; with both 18.1.
const longLivedGCPercent = 25

// shortLived is for the init container.
func shortLived() {
	debug.SetGCPercent(shortLivedGCPercent)
	limitMemory()
}

// longLived is for the sidecar.
func longLived() {
	runtime.GOMAXPROCS(1) // it does one thing at a time; each further processor has caches of its own
	debug.SetGCPercent(longLivedGCPercent)
	limitMemory()
	// What only the start needed is most of the heap.
	time.AfterFunc(10*time.Second, debug.FreeOSMemory)
	// client-go asks once a minute, not twice, whether a silent connection to the API server is still there (k8s.io/apimachinery
	// pkg/util/net, configureHTTP2Transport, has no other setting): nothing that comes over it is urgent.
	const variable = "HTTP2_READ_IDLE_TIMEOUT_SECONDS"
	if os.Getenv(variable) == "" {
		_ = os.Setenv(variable, "60") // a name without = or NUL can be set
	}
}

func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
