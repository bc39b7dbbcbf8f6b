// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli/policy"
)

func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := policy.Command()
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	err = cmd.Execute()
	return out.String(), errs.String(), err
}

func TestCommand(t *testing.T) {
	t.Parallel()
	stdout, stderr, err := run(t, "-n", "elsewhere")
	if err != nil || !strings.Contains(stderr, "Kubernetes 1.36 or later") {
		t.Fatal(err, stderr)
	}
	var kinds []string
	for document := range strings.SplitSeq(strings.TrimPrefix(stdout, "---\n"), "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, o.Kind)
		if o.Kind == "Injection" && o.Metadata.Namespace != "elsewhere" || o.Kind == "Namespace" && o.Metadata.Name != "elsewhere" {
			t.Errorf("%s %s in namespace %s", o.Kind, o.Metadata.Name, o.Metadata.Namespace)
		}
	}
	if want := []string{
		"CustomResourceDefinition", "Namespace", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
		"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "Injection",
	}; !slices.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
	if strings.Contains(stdout, "creationTimestamp: null") || strings.Contains(stdout, "status:") {
		t.Error("an empty field is printed")
	}
}

func TestStatic(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stdout, stderr, err := run(t, "--name", "mesh-ca", "--static", dir)
	if err != nil || stdout != "" {
		t.Fatal(err, stdout)
	}
	if lines := strings.Split(strings.TrimSpace(stderr), "\n"); len(lines) != 2 || !strings.Contains(lines[0], "Kubernetes 1.37 or later") {
		t.Errorf("got %s", stderr)
	}
	for file, want := range map[string][]string{
		"mutating/mesh-ca.json": {"MutatingAdmissionPolicyBinding mesh-ca.static.k8s.io", "MutatingAdmissionPolicy mesh-ca.static.k8s.io"},
		"validating/mesh-ca.json": {
			"ValidatingAdmissionPolicyBinding mesh-ca-guard.static.k8s.io", "ValidatingAdmissionPolicy mesh-ca-guard.static.k8s.io",
			"ValidatingAdmissionPolicyBinding mesh-ca-decision.static.k8s.io", "ValidatingAdmissionPolicy mesh-ca-decision.static.k8s.io",
			"ValidatingAdmissionPolicyBinding mesh-ca-warnings.static.k8s.io", "ValidatingAdmissionPolicy mesh-ca-warnings.static.k8s.io",
		},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		var list struct {
			Kind  string
			Items []struct {
				Kind     string
				Metadata struct{ Name string }
			}
		}
		if err := json.Unmarshal(text, &list); err != nil || list.Kind != "List" {
			t.Fatal(list.Kind, err)
		}
		var got []string
		for _, item := range list.Items {
			got = append(got, item.Kind+" "+item.Metadata.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q", file, got)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "admission-control.yaml"))
	if err != nil || !strings.Contains(string(text), "staticManifestsDir: "+filepath.Join(dir, "mutating")) {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--output: expected yaml or json": {"-o", "toml"},
		"--config: ":                      {"--config", "/does/not/exist"},
		"[namespace static] were all set": {"--static", "/does/not/exist", "-n", "x"},
		"[output static] were all set":    {"--static", "/does/not/exist", "-o", "json"},
		`name "Mesh" of the policies`:     {"--static", "/does/not/exist", "--name", "Mesh"},
		"--static: ":                      {"--static", "/dev/null/x"},
		`--name: "Bad Name": `:            {"--name", "Bad Name"},
		`--name: "x'; y": `:               {"--name", "x'; y"},
		"--name: \"aaaa":                  {"--name", strings.Repeat("a", 200)},
		`--namespace: "a.b": `:            {"-n", "a.b"},
		`--namespace: "": `:               {"-n", ""},
	} {
		if stdout, _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(stdout, "kind: ") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
