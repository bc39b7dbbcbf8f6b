// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"time"
)

// The settings of Go's runtime that differ from its defaults, with what `make bench SECTIONS=webhook` found for each.
const (
	// startGCPercent keeps the heap small while the caches fill: 36.9 MiB at rest, 39.5 with Go's default of 100.
	startGCPercent = 50
	// servingGCPercent collects seldom: an admission leaves much behind, and little lives on. Admissions of a small object at 16 in
	// parallel, over the framework's floor: 0.74 at 50, 0.87 to 0.94 at 100, 1.02 at 200; 50 MiB after 20,000 of them.
	servingGCPercent = 200
)

// smallStart bounds the heap before anything large is allocated.
func smallStart() {
	runtime.MemProfileRate = 0 // no profile is served, and keeping one takes half a megabyte
	debug.SetGCPercent(startGCPercent)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		// The chart sets GOMEMLIMIT to the container's limit, at which the kernel ends the process. Go counts only a part of it.
		debug.SetMemoryLimit(limit / 10 * 9)
	}
}

// started is called once the program serves: a quarter of the heap is what only the start needed.
func started() {
	time.AfterFunc(time.Second, func() {
		debug.FreeOSMemory()
		debug.SetGCPercent(servingGCPercent)
	})
}
