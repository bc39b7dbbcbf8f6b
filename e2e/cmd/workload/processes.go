// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// each calls act for every process of a program in this node's Pods. Other clusters may run on the same machine: the
// cgroups of their Pods have other names.
func each(program string, act func(pid int) error) error {
	mine, err := nodeCgroup("self")
	if err != nil {
		return err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	found := 0
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil {
			continue
		}
		executable, err := os.Readlink(process + "/exe")
		if err != nil || filepath.Base(executable) != program {
			continue // it may have ended
		}
		if its, err := nodeCgroup(filepath.Base(process)); err != nil || its != mine {
			continue
		}
		if err := act(pid); err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		found++
	}
	if found == 0 {
		return fmt.Errorf("no process of %s runs in this node's Pods", program)
	}
	return nil
}

// nodeCgroup returns the common prefix of the cgroups of a node's Pods, or "" for a process outside of Pods.
func nodeCgroup(process string) (string, error) {
	content, err := os.ReadFile("/proc/" + process + "/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(content)) {
		path := line[strings.LastIndex(line, ":")+1:]
		if before, _, found := strings.Cut(path, "/kubepods"); found {
			return before + "/kubepods", nil
		}
	}
	return "", nil
}
