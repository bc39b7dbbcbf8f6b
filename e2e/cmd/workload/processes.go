// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// each calls act for every process of a program that it sees and that is in one of this node's Pods: other clusters may
// run on this machine, and their nodes' cgroups have other names than this one's.
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
			continue // it may have ended meanwhile
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

// nodeCgroup is what the cgroups of all of a node's Pods begin with, "" for a process of no Pod.
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
