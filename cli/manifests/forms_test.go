// SPDX-License-Identifier: Apache-2.0

package manifests_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/diff"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

func TestInjectingWritesWhatItIsFedAgain(t *testing.T) {
	t.Parallel()
	for name, text := range inAllForms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			once := clitest.Run(t, text, "inject", "-f", "-").Succeeds(t)
			wantInjected(t, once)
			if twice := clitest.Run(t, once, "inject", "-f", "-").Succeeds(t); twice != once {
				t.Errorf("fed back, it changes again:\n%s", diff.Diff(once, twice))
			}
			if check := clitest.Run(t, once, "inject", "--check", "-f", "-"); check.Err != nil || check.Stdout != "" {
				t.Errorf("--check of what was injected: error %v, output %q", check.Err, check.Stdout)
			}
		})
	}
}

func TestUninjectGivesTheOriginalBack(t *testing.T) {
	t.Parallel()
	for name, text := range inAllForms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			once := clitest.Run(t, text, "inject", "-f", "-").Succeeds(t)
			back := clitest.Run(t, once, "uninject", "-f", "-").Succeeds(t)
			wantSame(t, clitest.Parse(t, text), clitest.Parse(t, back))
		})
	}
}

func TestTheChangedDocumentKeepsItsStyle(t *testing.T) {
	t.Parallel()
	forms := inAllForms(t)
	windows := clitest.Run(t, forms["Windows line ends"], "inject", "-f", "-").Succeeds(t)
	if strings.Count(windows, "\n") != strings.Count(windows, "\r\n") {
		t.Errorf("Windows line ends are mixed with others: %q", windows)
	}
	if out := clitest.Run(t, forms["after a separator"], "inject", "-f", "-").Succeeds(t); !strings.HasPrefix(out, "---\n# Installed by hand.\napiVersion") {
		t.Errorf("the separator is lost:\n%s", out)
	}
	if out := clitest.Run(t, forms["with a comment on it"], "inject", "-f", "-").Succeeds(t); strings.Count(out, "# the one\n") != 1 {
		t.Errorf("the separator's comment is not there once:\n%s", out)
	}
	if out := clitest.Run(t, forms["lists indented"], "inject", "-f", "-").Succeeds(t); !strings.Contains(out, "\n        - name: istiod-agent\n") {
		t.Errorf("lists are not indented as they were:\n%s", out)
	}
	for _, form := range []string{"one line", "one line on a separator", "JSON as kubectl has it"} {
		if out := clitest.Run(t, forms[form], "inject", "-f", "-").Succeeds(t); strings.Contains(out, `"apiVersion"`) || !strings.Contains(out, "apiVersion: apps/v1\n") {
			t.Errorf("%s becomes neither JSON nor plain YAML:\n%s", form, out)
		}
	}
}

func TestWhatUsesAnAnchorElsewhereStaysAsItWas(t *testing.T) {
	t.Parallel()
	out := clitest.Run(t, inAllForms(t)["an anchor used elsewhere"], "inject", "-f", "-").Succeeds(t)
	spec := clitest.Parse(t, out)["spec"].(map[string]any)
	wantSame(t, []any{map[string]any{"name": "cacerts", "secret": map[string]any{"secretName": "cacerts", "optional": true}}}, spec["copy"])
}

func inAllForms(t *testing.T) map[string]string {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(istiod))
	if err != nil {
		t.Fatal(err)
	}
	indented, err := json.MarshalIndent(clitest.Parse(t, istiod), "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"YAML":                  istiod,
		"after a separator":     "---\n" + istiod,
		"with a comment on it":  "--- # the one\n" + istiod,
		"Windows line ends":     strings.ReplaceAll("---\n"+istiod, "\n", "\r\n"),
		"no newline at the end": strings.TrimSuffix(istiod, "\n"),
		"lists indented": `apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, labels: {app: istiod}}
spec:
  template:
    metadata: {labels: {app: istiod}}
    spec:
      containers:
        - name: discovery
          volumeMounts:
            - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}
      volumes:
        - name: cacerts
          secret: {secretName: cacerts, optional: true}
`,
		"an anchor used elsewhere": strings.Replace(istiod, "volumes:\n", "volumes: &v\n", 1) + "  copy: *v\n",
		"one line":                 string(asJSON),
		"one line on a separator":  "--- " + string(asJSON),
		"JSON as kubectl has it":   string(indented) + "\n",
		"a List":                   "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimPrefix(istiod, "# Installed by hand.\n"), "\n", "\n  ") + "\n",
		"an end marker":            istiod + "...\n",
		"quoted keys":              strings.NewReplacer("spec:", `"spec":`, "containers:", `'containers':`).Replace(istiod),
	}
}

// wantInjected wants one istiod with both containers and the volume in memory.
func wantInjected(t *testing.T, text string) {
	t.Helper()
	object := clitest.Parse(t, text)
	if items, ok := object["items"].([]any); ok {
		object = items[0].(map[string]any)
	}
	spec := object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	for list, name := range map[string]string{"initContainers": "istiod-agent-init", "containers": "istiod-agent"} {
		entries, _ := spec[list].([]any)
		if len(entries) == 0 || entries[len(entries)-1].(map[string]any)["name"] != name {
			t.Errorf("%s do not end with %s:\n%s", list, name, text)
		}
	}
	want := map[string]any{"name": "cacerts", "emptyDir": map[string]any{"medium": "Memory", "sizeLimit": "1Mi"}}
	if volumes, _ := spec["volumes"].([]any); len(volumes) != 2 || !reflect.DeepEqual(volumes[0], want) {
		t.Errorf("volumes are %v", spec["volumes"])
	}
}
