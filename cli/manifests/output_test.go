// SPDX-License-Identifier: Apache-2.0

package manifests_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli/clitest"
	"github.com/istiod-agent/istiod-agent/cli/manifests"
)

func TestOutputAsJSON(t *testing.T) {
	t.Parallel()
	one := clitest.Run(t, "# nothing\n---\n"+istiod, "inject", "-f", "-", "-o", "json").Succeeds(t)
	if !json.Valid([]byte(one)) || !strings.Contains(one, "\n    \"kind\": \"Deployment\"") {
		t.Fatalf("not one indented object:\n%s", one)
	}
	wantSame(t, clitest.Parse(t, clitest.Run(t, istiod, "inject", "-f", "-").Succeeds(t)), clitest.Parse(t, one))

	several := clitest.Run(t, service+"---\n"+istiod+"---\n---\na: '<&>'\n", "inject", "-f", "-", "-o", "json").Succeeds(t)
	list := clitest.Parse(t, several)
	items, _ := list["items"].([]any)
	if list["kind"] != "List" || list["apiVersion"] != "v1" || len(items) != 3 {
		t.Fatalf("not a List of three:\n%s", several)
	}
	wantSame(t, clitest.Parse(t, one), items[1].(map[string]any))
}

func TestOutputAsPatches(t *testing.T) {
	t.Parallel()
	injected := clitest.Run(t, istiod, "inject", "-f", "-").Succeeds(t)
	out := clitest.Run(t, service+"---\n"+istiod+"---\n"+injected, "inject", "-f", "-", "-o", "patch").Succeeds(t)
	patches := strings.SplitAfter(out, "\n")
	if len(patches) != 3 || patches[1] != "[]\n" {
		t.Fatalf("want a patch, then an empty one, got\n%s", out)
	}
	var operations []struct{ Op, Path string }
	if err := json.Unmarshal([]byte(patches[0]), &operations); err != nil || len(operations) == 0 {
		t.Fatalf("%v: %s", err, patches[0])
	}
	for _, operation := range operations {
		if !strings.HasPrefix(operation.Path, "/spec/template/") && !strings.HasPrefix(operation.Path, "/metadata/annotations") {
			t.Errorf("an operation outside of the pod template and the annotations: %+v", operation)
		}
	}
	// A List's patches are each for the object itself, as kubectl patch wants them.
	list := "kind: List\napiVersion: v1\nitems:\n- " + strings.ReplaceAll(istiod, "\n", "\n  ") + "\n"
	if got := clitest.Run(t, list, "inject", "-f", "-", "-o", "patch").Succeeds(t); got != patches[0] {
		t.Errorf("in a List the patch is\n%s", got)
	}
}

func TestCheckWritesNothingAndSaysWhatWouldChange(t *testing.T) {
	t.Parallel()
	injected := clitest.Run(t, istiod, "inject", "-f", "-").Succeeds(t)
	tests := map[string]struct {
		command, text string
		err           error
		says          string
	}{
		"inject what is not":      {"inject", istiod, manifests.ErrWouldChange, "would change: set ROOT_CA_DIR in container discovery, add container istiod-agent-init, add container istiod-agent, make volume cacerts in-memory, add volume istiod-agent-vault-token, set annotation istiod-agent.io/injected"},
		"inject what is":          {"inject", injected, nil, "AlreadyInjected: "},
		"uninject what is":        {"uninject", injected, manifests.ErrWouldChange, "would change: unset ROOT_CA_DIR in container discovery, remove volume istiod-agent-vault-token, restore volume cacerts, remove container istiod-agent-init"},
		"uninject what is not":    {"uninject", istiod, nil, "NotInjected: "},
		"one of two":              {"inject", injected + "---\n" + istiod, manifests.ErrWouldChange, "standard input, document 2: deployment/istiod in namespace istio-system: would change: "},
		"nothing there":           {"inject", service, nil, "No istiod found (a Deployment or Pod with the label app=istiod)."},
		"an istiod that opts out": {"inject", strings.Replace(istiod, "name: istiod\n", "name: istiod\n  annotations: {istiod-agent.io/inject: \"false\"}\n", 1), nil, "OptedOut: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := clitest.Run(t, test.text, test.command, "--check", "-f", "-")
			if !errors.Is(got.Err, test.err) || got.Stdout != "" || !strings.Contains(got.Stderr, test.says) {
				t.Errorf("error %v, output %q, report:\n%s", got.Err, got.Stdout, got.Stderr)
			}
		})
	}
}
