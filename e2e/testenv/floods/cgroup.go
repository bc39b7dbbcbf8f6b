// SPDX-License-Identifier: Apache-2.0

// Package floods attacks the webhook as any client that reaches its ports can: with large and half-sent reviews, slow and
// idle connections, and unfinished handshakes. Cgroup gives the program the chart's memory.
package floods

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Memory is the memory limit of the webhook's container in the chart, in bytes.
const Memory = 256 << 20

// Cgroup limits the memory of the processes that are started in it.
type Cgroup struct {
	dir    string
	events string // the file that counts OOM kills
}

// NewCgroup creates a cgroup with a memory limit below this process's: of cgroup v2, or of the memory controller of v1. It
// fails where that is not permitted.
func NewCgroup(bytes int64) (*Cgroup, error) {
	content, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var failed []error
	for line := range strings.Lines(string(content)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var roots []string
		limits, events := map[string]string{"memory.max": strconv.FormatInt(bytes, 10)}, "memory.events"
		switch parts[1] {
		case "":
			roots = []string{"/sys/fs/cgroup"}
		case "memory":
			roots = []string{"/sys/fs/cgroup/memory"}
			limits, events = map[string]string{"memory.limit_in_bytes": strconv.FormatInt(bytes, 10)}, "memory.oom_control"
		default:
			continue
		}
		for _, below := range []string{parts[2], "/"} { // in a cgroup namespace the path may not exist
			group, err := makeCgroup(filepath.Join(roots[0], below), limits, events)
			if err == nil {
				return group, nil
			}
			failed = append(failed, err)
		}
	}
	return nil, fmt.Errorf("cannot create a cgroup with a memory limit: %w", errors.Join(failed...))
}

func makeCgroup(parent string, limits map[string]string, events string) (*Cgroup, error) {
	dir := filepath.Join(parent, "istiod-agent-floods-"+strconv.Itoa(os.Getpid()))
	if _, err := os.Stat(filepath.Join(parent, "cgroup.procs")); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	for name, value := range limits {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
			return nil, errors.Join(err, os.Remove(dir))
		}
	}
	return &Cgroup{dir: dir, events: filepath.Join(dir, events)}, nil
}

// Command returns the prefix of a command line that runs in the cgroup, with the chart's GOMEMLIMIT.
func (c *Cgroup) Command() []string {
	return []string{"/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && GOMEMLIMIT="$1" && export GOMEMLIMIT && shift && exec "$@"`, c.dir, strconv.Itoa(Memory)}
}

// Killed returns the number of OOM kills.
func (c *Cgroup) Killed() (int, error) {
	content, err := os.ReadFile(c.events)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if number, found := strings.CutPrefix(line, "oom_kill "); found {
			return strconv.Atoi(strings.TrimSpace(number))
		}
	}
	return 0, fmt.Errorf("%s counts no oom_kill", c.events)
}

// Remove removes the cgroup. Its processes must have ended.
func (c *Cgroup) Remove() error { return os.Remove(c.dir) }
