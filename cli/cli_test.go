// SPDX-License-Identifier: Apache-2.0

package cli_test

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
	// istiod is an istiod that a person might have written.
	istiod = `# Installed by hand.
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
	service = "apiVersion: v1\nkind: Service\nmetadata: {  name: istiod  } # kept as it is\n"
)

// result of one run of the command.
type result struct {
	stdout, stderr string
	err            error
}

func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := cli.NewCommand()
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	err := cmd.Execute()
	return result{stdout.String(), stderr.String(), err}
}

func (r result) succeeds(t *testing.T) string {
	t.Helper()
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.stderr)
	}
	return r.stdout
}

func write(t *testing.T, file, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return object
}
