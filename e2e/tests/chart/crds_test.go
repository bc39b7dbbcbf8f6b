// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

const (
	crdKind        = "CustomResourceDefinition"
	keepAnnotation = "helm.sh/resource-policy"
)

// The chart's CRDs equal those of config/crd.
func TestCRDs(t *testing.T) {
	want := crdsOfTheAPI(t)
	if names := slices.Sorted(maps.Keys(want)); !slices.Equal(names, []string{
		"injections.istiod-agent.io",
		"issuedcertificates.certificates.mesh.gloo.solo.io",
		"podbouncedirectives.certificates.mesh.gloo.solo.io",
		"virtualmeshes.networking.mesh.gloo.solo.io",
	}) {
		t.Errorf("config/crd has %q", names)
	}

	kept := crds(render(t, standard, nil))
	for name, crd := range kept {
		if crd.GetAnnotations()[keepAnnotation] != "keep" {
			t.Errorf("by default `helm uninstall` keeps the CRDs, and not %s", name)
		}
		removeKeepAnnotation(crd)
	}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("(-config/crd +chart):\n%s", diff)
	}

	if diff := cmp.Diff(want, crds(render(t, standard, helm.Values{"crds": helm.Values{"keep": false}}))); diff != "" {
		t.Errorf("not kept (-config/crd +chart):\n%s", diff)
	}
	if none := crds(render(t, standard, helm.Values{"crds": helm.Values{"install": false}})); len(none) > 0 {
		t.Errorf("not wanted, there are %q", slices.Sorted(maps.Keys(none)))
	}
	onlyOurs := crds(render(t, standard, helm.Values{"crds": helm.Values{"install": false}, "injection": helm.Values{"by": "policy"}}))
	if names := slices.Sorted(maps.Keys(onlyOurs)); !slices.Equal(names, []string{"injections.istiod-agent.io"}) {
		t.Errorf("beside Gloo Mesh's CRDs, the policy has %q", names)
	}
	for name, crd := range crds(render(t, standard, helm.Values{"commonLabels": helm.Values{"team": "mesh"}})) {
		if diff := cmp.Diff(map[string]string{"team": "mesh"}, crd.GetLabels()); diff != "" {
			t.Errorf("labels of %s (-want +got):\n%s", name, diff)
		}
	}
}

// removeKeepAnnotation leaves no empty annotations.
func removeKeepAnnotation(object *unstructured.Unstructured) {
	annotations := object.GetAnnotations()
	delete(annotations, keepAnnotation)
	object.SetAnnotations(annotations)
	if len(annotations) == 0 {
		unstructured.RemoveNestedField(object.Object, "metadata", "annotations")
	}
}

func crds(r rendered) map[string]*unstructured.Unstructured {
	found := map[string]*unstructured.Unstructured{}
	for _, object := range r.objects {
		if object.GetKind() == crdKind {
			if len(object.GetAnnotations()) == 0 { // Helm's template leaves null
				unstructured.RemoveNestedField(object.Object, "metadata", "annotations")
			}
			found[object.GetName()] = object
		}
	}
	return found
}

func crdsOfTheAPI(t *testing.T) map[string]*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), "config", "crd", "*_*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*unstructured.Unstructured{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range parse(t, string(content)) {
			found[object.GetName()] = object
		}
	}
	return found
}
