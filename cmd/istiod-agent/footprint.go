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

// shortLivedGCPercent keeps the collector from the few megabytes of an init container: from its start to the published files,
// `make bench SECTIONS=agent` found 24 ms beyond Vault's calls with Go's default, and 20 with this.
const shortLivedGCPercent = 400

// shortLived is for the init container.
func shortLived() {
	debug.SetGCPercent(shortLivedGCPercent)
	limitMemory()
}

// longLived is for the sidecar, which does one thing at a time and mostly none.
func longLived() {
	runtime.GOMAXPROCS(1) // 0.3 MiB at rest: 17.9 MiB in place of 18.2 on two processors
	limitMemory()
	if os.Getenv("FOS") != "" {
		time.AfterFunc(5*time.Second, debug.FreeOSMemory)
	}
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
