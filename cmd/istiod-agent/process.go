// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// confine keeps the process's memory, with the CA key in it for a while, in the process: it leaves no core, and no other
// process of its user can attach to it or read its memory. The core limit alone does not hold for cores that the kernel
// pipes to a program (core(5)).
func confine() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process's memory unreadable for others: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setting the core limit: %w", err)
	}
	return nil
}
