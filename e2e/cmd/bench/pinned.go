// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

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

// pin binds a process to some processors, with all that it starts from then on. Go's runtime follows with GOMAXPROCS.
func pin(pid int, cpus ...int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	return eachThread(pid, func(thread int, _ string) error { return unix.SchedSetaffinity(thread, &set) })
}

// waited is how long the threads of processes were ready to run and had no processor: what other programs took of their
// time (Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat).
func waited(pids ...int) (total time.Duration, err error) {
	for _, pid := range pids {
		err = errors.Join(err, eachThread(pid, func(_ int, dir string) error {
			content, err := os.ReadFile(filepath.Join(dir, "schedstat"))
			var ran, waiting time.Duration
			if err == nil {
				_, err = fmt.Sscan(string(content), (*int64)(&ran), (*int64)(&waiting))
			}
			total += waiting
			return err
		}))
	}
	return total, err
}

func eachThread(pid int, call func(thread int, dir string) error) error {
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(dirs) == 0 {
		return fmt.Errorf("no threads of process %d: %w", pid, err)
	}
	for _, dir := range dirs {
		thread, err := strconv.Atoi(filepath.Base(dir))
		if err == nil {
			err = call(thread, dir)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // it has just ended
			return err
		}
	}
	return nil
}
