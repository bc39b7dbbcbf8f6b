// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const header = "apiVersion: config.istiod-agent.io/v1alpha1\nkind: InjectionConfiguration\n"

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c}}]
current-context: c
`

// Each line that a failed start logs is an error with its cause.
func TestFailedStart(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cluster := file("kubeconfig", kubeconfig)
	for name, test := range map[string]struct {
		config string
		causes []string
	}{
		"no file":          {filepath.Join(dir, "missing"), []string{"no such file"}},
		"not YAML":         {file("brace", "{"), []string{"not YAML"}},
		"two mistakes":     {file("mistakes", header+"target: deployment\nserver: {port: 99999}\n"), []string{"server.port: ", "target: "}},
		"no CA of clients": {file("client-ca", header+"server: {clientCA: /missing/ca.crt}\n"), []string{"server.clientCA: "}},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			cmd := newCommand()
			cmd.SetErr(&log)
			cmd.SetArgs([]string{"--config", test.config, "--kubeconfig", cluster})
			if err := cmd.ExecuteContext(t.Context()); !errors.Is(err, errLogged) {
				t.Fatalf("got %v", err)
			}
			logged := log.String()
			for line := range strings.Lines(logged) {
				var fields map[string]any
				if err := json.Unmarshal([]byte(line), &fields); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				if cause, _ := fields["err"].(string); fields["level"] != "ERROR" || cause == "" {
					t.Errorf("no error line: %s", line)
				}
			}
			for _, cause := range test.causes {
				if !strings.Contains(logged, cause) {
					t.Errorf("want %q in %s", cause, logged)
				}
			}
			if lines := strings.Count(logged, "\n"); lines != len(test.causes) {
				t.Errorf("%d lines, want %d: %s", lines, len(test.causes), logged)
			}
		})
	}
}
