// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

func TestMeshConfigMap(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ deployment, want string }{
		"none":               {`{metadata: {name: istiod}}`, "istio"},
		"default":            {`{spec: {template: {spec: {containers: [{name: discovery, env: [{name: REVISION, value: default}]}]}}}}`, "istio"},
		"canary":             {`{spec: {template: {spec: {containers: [{name: x}, {name: discovery, env: [{name: A}, {name: REVISION, value: canary}]}]}}}}`, "istio-canary"},
		"by its label alone": {`{metadata: {labels: {istio.io/rev: "1-31"}}}`, "istio-1-31"},
		"the environment goes before the label": {
			`{metadata: {labels: {istio.io/rev: "1-31"}}, spec: {template: {spec: {containers: [{env: [{name: REVISION, value: "1-30"}]}]}}}}`, "istio-1-30",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(test.deployment), &object.Object); err != nil {
				t.Fatal(err)
			}
			if got := istio.MeshConfigMap(istio.Revision(object)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
