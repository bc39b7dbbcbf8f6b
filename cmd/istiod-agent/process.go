// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// confine protects the process's memory, which holds the CA key for a while: the process dumps no core, and no other process of
// its user can attach to it or read its memory. The core limit alone does not apply to cores that the kernel pipes to a
// program (core(5)).
func confine() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process's memory unreadable to other processes: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setting the core limit: %w", err)
	}
	return nil
}
