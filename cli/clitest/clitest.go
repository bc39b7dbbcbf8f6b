// SPDX-License-Identifier: Apache-2.0

// Package clitest runs the plugin's commands in tests.
package clitest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli"
)

const (
	// Istiod is an istiod that a person might have written.
	Istiod = `# Installed by hand.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: istiod
  namespace: istio-system
  labels: {app: istiod}
spec:
  template:
    metadata:
      labels: {app: istiod} # as selected
    spec:
      containers:
      - name: discovery
        image: pilot
        volumeMounts:
        - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}
      volumes:
      - name: cacerts
        secret: {secretName: cacerts, optional: true}
`
	// Service is an object that is not an istiod.
	Service = "apiVersion: v1\nkind: Service\nmetadata: {  name: istiod  } # kept as it is\n"
)

// Result of one run of the command.
type Result struct {
	Stdout, Stderr string
	Err            error
}

// Run runs a command of the plugin.
func Run(t *testing.T, stdin string, args ...string) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := cli.NewCommand()
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	err := cmd.Execute()
	return Result{stdout.String(), stderr.String(), err}
}

// Succeeds returns what a run wrote, and fails the test where the run has failed.
func (r Result) Succeeds(t *testing.T) string {
	t.Helper()
	if r.Err != nil {
		t.Fatalf("%v\n%s", r.Err, r.Stderr)
	}
	return r.Stdout
}

// Write writes a file, with the directories above it, and returns its name.
func Write(t *testing.T, file, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Parse reads an object in YAML.
func Parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return object
}
