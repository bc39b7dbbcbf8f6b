// SPDX-License-Identifier: Apache-2.0

package manifests_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	yamlv2 "go.yaml.in/yaml/v2"
	"k8s.io/apimachinery/pkg/util/diff"

	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

// Whatever is fed in: an error writes nothing, and what is written means the
// same in each format and is as it would be injected.
func FuzzInject(f *testing.F) {
	f.Add(istiod)
	f.Add(refused)
	f.Add("# a\n---\n" + service + "---\n" + istiod)
	f.Add("--- &a\napiVersion: apps/v1\nkind: Deployment\nmetadata: {labels: &l {app: istiod}}\nspec: {template: {metadata: {labels: *l}, spec: {<<: {x: 1}, containers: [{name: discovery, image: ! \"a\"}]}}}\n")
	f.Add("kind: List\nitems:\n  - # c\n    apiVersion: v1\n    kind: Pod\n    metadata: {labels: {app: istiod}}\n    spec: {containers: [{name: discovery}]}\n")
	f.Add("? apiVersion\n: apps/v1\n? kind\n: Deployment\nmetadata:\n  labels: !!map {app: !!str istiod}\nspec:\n  template:\n    spec:\n      containers:\n      - name: >-\n          discovery\n        port: 0o17\n        at: 12:30\n        on: yes\n")
	f.Add(escapedJSON)
	f.Add(otherJSON + escapedJSON + "---\n# c\n" + otherJSON + "\n...\n" + escapedJSON)
	f.Add(`{"apiVersion":"apps/v1","kind":"DeploymentList","items":[{"metadata":{"labels":{"app":"istiod"}},"spec":{"template":{"spec":{"containers":[{"name":"discovery","args":["\n  a\n","- ","~","0o7","1_0","<<"]}]}}}}]}`)
	f.Add(withMerges)
	f.Add("apiVersion: v1\nkind: PodList\nitems: &i\n- &p\n  metadata: {labels: {app: istiod}}\n  spec: {containers: [{name: discovery}]}\n- {<<: *p, <<: {a: b}}\nmore: *i\n")
	f.Fuzz(func(t *testing.T, text string) {
		out := clitest.Run(t, text, "inject", "-f", "-")
		if out.Err != nil {
			if out.Stdout != "" {
				t.Errorf("error %v, and output %q", out.Err, out.Stdout)
			}
			return
		}
		if again := clitest.Run(t, out.Stdout, "inject", "-f", "-").Succeeds(t); again != out.Stdout {
			t.Errorf("fed back, it changes again:\n%s", diff.Diff(out.Stdout, again))
		}
		asJSON := clitest.Run(t, text, "inject", "-f", "-", "-o", "json")
		if asJSON.Err != nil || !hasOnlyTextKeys(text) {
			return // what passes through need not fit JSON, where 0 and 00 are one key
		}
		if written := clitest.Run(t, out.Stdout, "inject", "-f", "-", "-o", "json").Succeeds(t); written != asJSON.Stdout {
			wantSame(t, decode(t, asJSON.Stdout), decode(t, written))
		}
	})
}

func hasOnlyTextKeys(stream string) bool {
	documents := yamlv2.NewDecoder(strings.NewReader(stream))
	for {
		var document any
		if err := documents.Decode(&document); err != nil {
			return errors.Is(err, io.EOF)
		}
		if !textKeys(document) {
			return false
		}
	}
}

func textKeys(value any) bool {
	switch value := value.(type) {
	case map[any]any:
		for key, member := range value {
			if _, isText := key.(string); !isText || !textKeys(member) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(value, func(entry any) bool { return !textKeys(entry) })
	}
	return true
}
