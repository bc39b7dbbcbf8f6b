// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// memoryLimit is what Go's heap keeps below, as far as it can, where GOMEMLIMIT is not set: the injected container has
// 64 MiB (api/config/v1alpha1).
const memoryLimit = 48 << 20

// shortLivedGCPercent keeps the collector from the few megabytes of an init container. From its start to the published files,
// beyond Vault's calls, `make bench SECTIONS=agent` found 21 to 23 ms with this, 22 to 26 with Go's default of 100.
const shortLivedGCPercent = 400

// longLivedGCPercent collects the sidecar's heap of 2 MiB when it has grown by a quarter, in less than a millisecond.
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
	time.AfterFunc(10*time.Second, forgetStart)
	// client-go asks once a minute, not twice, whether a silent connection to the API server is still there (k8s.io/apimachinery
	// pkg/util/net, configureHTTP2Transport, has no other setting): nothing that comes over it is urgent.
	const variable = "HTTP2_READ_IDLE_TIMEOUT_SECONDS"
	if os.Getenv(variable) == "" {
		_ = os.Setenv(variable, "60") // a name without = or NUL can be set
	}
}

// forgetStart returns to the kernel what only the start needed: most of the heap, and most pages of the program's own file. A
// page that is used again comes back from the page cache. `make bench SECTIONS=agent` found 18.6 MiB at rest without all that
// is here, and 15.9 MiB with it.
func forgetStart() {
	debug.FreeOSMemory()
	program, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var permissions, offset, device, inode, file string
		if _, err := fmt.Sscanf(line, "%x-%x %s %s %s %s %s", &from, &to, &permissions, &offset, &device, &inode, &file); err != nil || file != program || strings.Contains(permissions, "w") {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED) // where it is refused, they stay
	}
}

func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
