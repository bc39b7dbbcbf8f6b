// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// processors are those of the machine that this process may run on.
func processors() (cpus []int, err error) {
	var set unix.CPUSet
	err = unix.SchedGetaffinity(0, &set)
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, err
}

// pin binds this process to some processors, with all that it starts from then on. Go's runtime follows with GOMAXPROCS.
func pin(cpus ...int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("no threads in /proc/self/task: %w", err)
	}
	for _, dir := range threads {
		thread, err := strconv.Atoi(filepath.Base(dir))
		if err == nil {
			err = unix.SchedSetaffinity(thread, &set)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // the thread has just ended
			return err
		}
	}
	return nil
}
