// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// `kubectl apply -k config/default`, or config/by-policy, installs the same objects as `helm install`, except for Helm's
// labels, the annotation that makes Helm keep the CRDs, the Namespace of --create-namespace, and the hook.
func TestKustomize(t *testing.T) {
	for folder, values := range map[string]helm.Values{"default": nil, "by-policy": {"injection": helm.Values{"by": "policy"}}} {
		t.Run(folder, func(t *testing.T) { wantKustomized(t, folder, values) })
	}
}

func wantKustomized(t *testing.T, folder string, values helm.Values) {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).
		Run(filesys.MakeFsOnDisk(), filepath.Join(root(t), "config", folder))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]any{}
	for _, object := range parse(t, string(stream)) {
		if got[key(object)] != nil {
			t.Errorf("%s is there twice", key(object))
		}
		got[key(object)] = object.Object
	}

	want := map[string]any{"Namespace " + standard.Namespace: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": standard.Namespace},
	}}
	for name, object := range render(t, standard, values).objects {
		if isHook(object) {
			continue
		}
		for _, label := range []string{"helm.sh/chart", "app.kubernetes.io/managed-by"} {
			unstructured.RemoveNestedField(object.Object, "metadata", "labels", label)
		}
		removeKeepAnnotation(object)
		want[name] = object.Object
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config/ differs from what the chart renders; `make generate` writes it again (-chart +config):\n%s", diff)
	}
}

func isHook(object *unstructured.Unstructured) bool {
	_, found := object.GetAnnotations()["helm.sh/hook"]
	return found
}
