// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"bytes"
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
		"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "Injection",
	}; !slices.Equal(kinds, want) {
		t.Errorf("got %v, want %v", kinds, want)
	}
	if strings.Contains(stdout, "creationTimestamp: null") || strings.Contains(stdout, "status:") {
		t.Error("an empty field is printed")
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--output: expected yaml or json": {"-o", "toml"},
		"--config: ":                      {"--config", "/does/not/exist"},
	} {
		if stdout, _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(stdout, "kind: ") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
