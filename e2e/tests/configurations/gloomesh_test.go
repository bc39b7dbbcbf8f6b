// SPDX-License-Identifier: Apache-2.0

package configurations

import (
	"cmp"
	_ "embed"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

//go:embed testdata/guide-patch.yaml
var guidePatch string

// Both Gloo Mesh configurations (the sample file and the chart's values) inject exactly what the guide's `kubectl patch` adds.
func TestGlooMeshSample(t *testing.T) {
	path := []string{"config", "samples", "injection-gloo-mesh.yaml"}
	installed(t, webhookserver.Options{File: file(t, path...)})
	image := decode(t, path...)["agent"].(map[string]any)["image"].(string)
	version, found := strings.CutPrefix(image, "gcr.io/gloo-mesh/istiod-agent:")
	if !found {
		t.Fatalf("the image is %s, not the guide's", image)
	}
	testAgainstGuide(t, version)
}

func TestGlooMeshValues(t *testing.T) {
	values := decode(t, "charts", "istiod-agent", "values-gloo-mesh.yaml")
	installed(t, webhookserver.Options{Values: values})
	image := values["injection"].(map[string]any)["agent"].(map[string]any)["image"].(map[string]any)
	testAgainstGuide(t, image["tag"].(string))
}

// testAgainstGuide creates each istiod twice: once with the webhook, and once without it and with the guide's patch.
func testAgainstGuide(t *testing.T, version string) {
	patch, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(guidePatch, "$MGMT_PLANE_VERSION", version)))
	if err != nil {
		t.Fatal(err)
	}
	byWebhook, byHand := shared.Namespace(t, true), shared.Namespace(t, false)
	inputs, err := istio.Inputs(t.Context(), byWebhook)
	if err != nil {
		t.Fatal(err)
	}
	for name, istiod := range inputs {
		t.Run(name, func(t *testing.T) {
			injected := shared.MustApply(t, istiod)
			istiod.SetNamespace(byHand)
			patched := shared.MustApply(t, istiod)
			if err := shared.Patch(t.Context(), patched, client.RawPatch(types.StrategicMergePatchType, patch)); err != nil {
				t.Fatal(err)
			}
			if difference := gocmp.Diff(unordered(patched), unordered(injected)); difference != "" {
				t.Errorf("the guide's patch (-) and the webhook (+) differ:\n%s", difference)
			}
			for _, each := range []*appsv1.Deployment{injected, patched} {
				if err := shared.Delete(t.Context(), each); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// unordered sorts lists whose order has no meaning: a strategic merge adds new elements at the front.
func unordered(deployment *appsv1.Deployment) *corev1.PodTemplateSpec {
	template := deployment.Spec.Template.DeepCopy()
	slices.SortFunc(template.Spec.Containers, func(a, b corev1.Container) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(template.Spec.Volumes, func(a, b corev1.Volume) int { return cmp.Compare(a.Name, b.Name) })
	return template
}

// file returns the path of a file of this repository.
func file(t *testing.T, path ...string) string {
	t.Helper()
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(append([]string{root}, path...)...)
}

func decode(t *testing.T, path ...string) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(file(t, path...))
	if err != nil {
		t.Fatal(err)
	}
	content := map[string]any{}
	if err := yaml.UnmarshalStrict(raw, &content); err != nil {
		t.Fatal(err)
	}
	return content
}
