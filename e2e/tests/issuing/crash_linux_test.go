// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/faultproxy"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// allowCores has a shell, and the program that it runs then, leave cores.
const allowCores = `ulimit -S -c "$(ulimit -H -c)" && `

// An agent that crashes with a token and a key in its memory leaves no core dump, even with a limit and a GOTRACEBACK that
// ask for one. The stack traces that it prints hold neither.
func TestCrashLeavesNoSecret(t *testing.T) {
	other := exec.CommandContext(t.Context(), "/bin/sh", "-c", allowCores+"kill -ABRT $$")
	other.Dir = t.TempDir()
	if _ = other.Run(); !other.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
		t.Skipf("no process leaves a core here: %v", other.ProcessState)
	}
	s := newSetting(t, vaultserver.Options{})
	proxy := s.proxy(t)
	proxy.Spoil(signPath, 0, faultproxy.Hang)
	s.specify(t, exported)
	calls := 0
	for name, signal := range map[string]syscall.Signal{
		"SIGQUIT": syscall.SIGQUIT, "SIGABRT": syscall.SIGABRT, "SIGSEGV": syscall.SIGSEGV,
	} {
		t.Run(name, func(t *testing.T) {
			command := s.Command(t.Context(), "sidecar", "--port", "0")
			command.Dir = t.TempDir()
			command.Env = append(command.Env, "GOTRACEBACK=crash")
			command.Args = append([]string{"sh", "-c", allowCores + `exec "$0" "$@"`, command.Path}, command.Args[1:]...)
			command.Path = "/bin/sh"
			sidecar, err := process.Start("istiod-agent", command)
			must(t, err)
			t.Cleanup(func() { must(t, sidecar.Kill()) })
			calls++
			cluster.Eventually(t, "it waits for its key's certificate", func() error {
				if n := proxy.Count(signPath); n != calls {
					return fmt.Errorf("there are %d calls, want %d", n, calls)
				}
				return nil
			})
			must(t, sidecar.Signal(signal))
			<-sidecar.Exited()

			output := sidecar.Output()
			must(t, contains(output, "\ngoroutine ")) // it has crashed
			if status := command.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.CoreDump() {
				t.Errorf("it has left a core, or not died of a signal: %v", command.ProcessState)
			}
			left, err := os.ReadDir(command.Dir)
			must(t, err)
			if len(left) > 0 {
				t.Errorf("it has left %q", left[0].Name())
			}
			for _, where := range []string{"a login's token", "a key that Vault made"} {
				if !s.knows(where) {
					t.Errorf("%s is not looked for", where)
				}
			}
		})
	}
}
