// SPDX-License-Identifier: Apache-2.0

package process_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// asParent makes this test binary start a process, say its id, and wait for it.
const asParent = "ISTIOD_AGENT_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(asParent) == "" {
		os.Exit(m.Run())
	}
	child, err := process.Start("sleep", exec.Command("sleep", "60"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(child.PID())
	<-child.Exited()
}

func TestParentKilled(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), asParent+"=1")
	output, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if killErr := parent.Process.Kill(); killErr != nil {
		t.Fatal(killErr)
	}
	_ = parent.Wait() // killed
	if err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Sscan(line, &child); err != nil {
		t.Fatalf("%q: %v", line, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for running(child) {
		if ctx.Err() != nil {
			_ = syscall.Kill(child, syscall.SIGKILL)
			t.Fatalf("process %d has outlived who started it", child)
		}
	}
}

// running is false also for a process that has ended and that nobody has waited for.
func running(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, found := bytes.Cut(status, []byte(") "))
	return found && state[0] != 'Z'
}

func TestWaitUntil(t *testing.T) {
	p, err := process.Start("sh", exec.Command("sh", "-c", "echo that is why; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	err = p.WaitUntil(t.Context(), "it works", func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "ended before it works (exit status 3)") || !strings.Contains(err.Error(), "that is why") {
		t.Error(err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killing what has ended: %v", err)
	}
}

func TestStop(t *testing.T) {
	for name, test := range map[string]struct {
		trap string // what becomes of SIGTERM
		want string // in the error
	}{
		"ends in order": {trap: "trap 'exit 0' TERM"},
		"ends badly":    {trap: "trap 'exit 4' TERM", want: "ended badly (exit status 4)"},
		"goes on":       {trap: "trap '' TERM", want: "did not end 500ms after SIGTERM"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := process.Start("sh", exec.Command("sh", "-c", test.trap+"; echo there; while :; do sleep 0.05; done"))
			if err != nil {
				t.Fatal(err)
			}
			if err := p.WaitUntil(t.Context(), "it is there", func(context.Context) error {
				if !strings.Contains(p.Output(), "there") {
					return errors.New("no output")
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			err = p.Stop(500 * time.Millisecond)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
			select {
			case <-p.Exited():
			default:
				t.Error("it still runs")
			}
		})
	}
}
