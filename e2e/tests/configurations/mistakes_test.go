// SPDX-License-Identifier: Apache-2.0

package configurations

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
)

// The program rejects an invalid configuration before it serves, with the path of each mistake.
func TestInvalidConfiguration(t *testing.T) {
	program, err := built.Webhook(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := shared.Plane.Kubeconfig("nobody")
	if err != nil {
		t.Fatal(err)
	}
	mistaken := filepath.Join(t.TempDir(), "mistaken.yaml")
	if err := os.WriteFile(mistaken, []byte(`apiVersion: config.istiod-agent.io/v1alpha1
kind: InjectionConfiguration
target: deployment
agent:
  imagePullPolice: Always
cacerts:
  sizeLimit: a lot
server:
  port: 99999
`), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	pipe := filepath.Join(t.TempDir(), "pipe.yaml") // without a writer
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}

	for file, words := range map[string][]string{
		mistaken: {mistaken, "target", "agent.imagePullPolice", "cacerts.sizeLimit", "server.port"},
		missing:  {missing, "no such file"},
		pipe:     {pipe, "expected a regular file"},
	} {
		output, err := exec.CommandContext(t.Context(), program, "--config", file, "--kubeconfig", kubeconfig).CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			t.Errorf("%s: it ended with %v", filepath.Base(file), err)
		}
		for _, word := range words {
			if !strings.Contains(string(output), word) {
				t.Errorf("%s: it does not mention %q:\n%s", filepath.Base(file), word, output)
			}
		}
	}
}
