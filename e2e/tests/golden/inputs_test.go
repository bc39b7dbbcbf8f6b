// SPDX-License-Identifier: Apache-2.0

// Package golden renders the istiods in golden/testdata that come from Istio's chart. The other inputs there are written by
// hand.
package golden

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
)

var update = flag.Bool("update", false, "write golden/testdata/chart-*.yaml as Istio's chart renders them now")

const namespace = "istio-system"

// inputs are values of Istio's chart by the name of the file.
var inputs = map[string]helm.Values{
	"chart-default":   {},
	"chart-revision":  {"revision": "canary", "revisionTags": []any{"stable"}},
	"chart-ambient":   {"profile": "ambient"},
	"chart-openshift": {"platform": "openshift"},
	"chart-limits": {
		"autoscaleEnabled": false, "replicaCount": 2,
		"resources": helm.Values{"requests": helm.Values{"cpu": "500m", "memory": "2Gi"}, "limits": helm.Values{"cpu": "2", "memory": "4Gi"}},
	},
	"chart-own-parts": {
		"initContainers": []any{helm.Values{"name": "wait", "image": "busybox", "command": []any{"true"}}},
		"volumes":        []any{helm.Values{"name": "extra", "configMap": helm.Values{"name": "extra"}}},
		"volumeMounts":   []any{helm.Values{"name": "extra", "mountPath": "/extra"}},
		"env":            helm.Values{"PILOT_ENABLE_STATUS": "true"},
		"envVarFrom":     []any{helm.Values{"name": "A_SECRET", "valueFrom": helm.Values{"secretKeyRef": helm.Values{"name": "s", "key": "k", "optional": true}}}},
		"podAnnotations": helm.Values{"example.com/note": "kept"},
	},
	"chart-external-istiod": {"env": helm.Values{"EXTERNAL_ISTIOD": "true", "USE_REMOTE_CERTS": "true"}},
	"chart-istio-csr":       {"env": helm.Values{"ENABLE_CA_SERVER": "false"}},
	"chart-native":          {},
	"chart-gloo-mesh":       {},
	"chart-pod":             {},
	"chart-pod-native":      {"revision": "canary"},
}

func TestInputs(t *testing.T) {
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "golden", "testdata")
	for name, values := range inputs {
		object, err := istio.Deployment(t.Context(), namespace, istio.Values(namespace, "1.31.0", values))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "chart-pod") {
			object = pod(t, object)
		}
		want, err := yaml.Marshal(object.Object)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name+".yaml")
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, err := os.ReadFile(file); err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is not what the chart renders; write it again with: cd e2e && go test ./tests/golden -update (%v)", file, err)
		}
	}

	files, err := filepath.Glob(filepath.Join(dir, "chart-*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		if _, ok := inputs[strings.TrimSuffix(name, ".config")]; !ok {
			t.Errorf("%s: nothing renders this file any more", file)
		}
	}
}

// pod returns the Pod that a ReplicaSet creates from the Deployment's template.
func pod(t *testing.T, deployment *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	template, _, err := unstructured.NestedMap(deployment.Object, "spec", "template")
	if err != nil {
		t.Fatal(err)
	}
	p := &unstructured.Unstructured{Object: template}
	p.SetAPIVersion("v1")
	p.SetKind("Pod")
	p.SetNamespace(namespace)
	p.SetGenerateName(deployment.GetName() + "-7d9c6f5b8-")
	return p
}
