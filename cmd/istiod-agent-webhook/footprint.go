// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"time"
)

// The settings of Go's runtime that differ from its defaults.
const (
	// startGCPercent keeps the heap small while the caches fill.
	startGCPercent = 50
	// servingGCPercent and ballast give a small heap 12 MiB and more between two collections, since an admission leaves much garbage
	// behind, and a large one (the controllers' cache of a large cluster) no more than startGCPercent would. The ballast is
	// never written to, so that it takes no memory. A GC percent of 200 without it is as fast; the controllers of
	// `make bench SECTIONS=controllers` then take 172 to 206 MiB in place of 131.
	servingGCPercent = 25
	ballastSize      = 48 << 20
)

// ballast counts as heap for the collector's pace.
var ballast []byte //nolint:unused // it has its effect by its size

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
		ballast = make([]byte, ballastSize)
		if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
			debug.SetMemoryLimit(limit + ballastSize)
		}
		debug.SetGCPercent(servingGCPercent)
	})
}
