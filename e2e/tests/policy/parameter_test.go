// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Without the parameter istiod cannot change; nonsense is refused by the schema; what is injected already stays as it is.
func TestParameter(t *testing.T) {
	s := startServer(t)
	const namespace = "by-default"
	s.optedIn(t, namespace)
	p := s.install(t, namespace, v1alpha1.Default(), namespace)
	inputs, err := istio.Inputs(t.Context(), namespace)
	if err != nil {
		t.Fatal(err)
	}
	istiod := copied(inputs["chart: default"].Object)
	s.inForce(t, namespace, patches.Deployment, istiod)

	parameter := client.ObjectKeyFromObject(p.Parameter)
	for name, change := range map[string]func(spec object){
		"another volume":    func(spec object) { spec["volume"].(object)["name"] = "other" },
		"a volume on disk":  func(spec object) { spec["volume"].(object)["emptyDir"].(object)["medium"] = "" },
		"no image":          func(spec object) { delete(spec["initContainer"].(object), "image") },
		"an odd digest":     func(spec object) { spec["digest"] = "x" },
		"text for a list":   func(spec object) { spec["container"].(object)["env"] = "x" },
		"too few variables": func(spec object) { spec["initContainer"].(object)["env"] = items{} },
		"another container": func(spec object) { spec["container"].(object)["name"] = "other" },
		"another command":   func(spec object) { spec["container"].(object)["args"] = items{"sh"} },
		"nothing":           func(spec object) { clear(spec) },
	} {
		edited := p.Parameter.DeepCopy()
		change(edited.Object["spec"].(object))
		edited.SetResourceVersion("")
		edited.SetName("edited")
		if err := s.Create(t.Context(), edited, client.DryRunAll); !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Stored once, admitted again: the generation stays.
	u := &unstructured.Unstructured{Object: copied(istiod)}
	u.SetNamespace(namespace)
	s.mustCreate(t, u)
	u.SetLabels(map[string]string{"app": "istiod", "changed": "true"})
	if err := s.Update(t.Context(), u); err != nil || u.GetGeneration() != 1 {
		t.Errorf("generation %d after an update of a label: %v", u.GetGeneration(), err)
	}
	// A container that somebody removes is there again.
	_, spec := podOf(u.Object)
	spec["containers"] = without(spec["containers"], "istiod-agent")
	if err := s.Update(t.Context(), u); err != nil || u.GetGeneration() != 1 {
		t.Errorf("generation %d after the removal of a container: %v", u.GetGeneration(), err)
	}
	// An opt-out takes all of it out.
	u.SetAnnotations(map[string]string{"istiod-agent.io/inject": "false"})
	if err := s.Update(t.Context(), u); err != nil {
		t.Error(err)
	}
	if _, spec := podOf(u.Object); len(agentsIn(spec)) > 0 || named(spec["volumes"], "cacerts")["secret"] == nil {
		t.Errorf("after an opt-out: %v", spec)
	}
	if err := s.Delete(t.Context(), u); err != nil {
		t.Fatal(err)
	}

	stored := &unstructured.Unstructured{}
	stored.SetGroupVersionKind(p.Parameter.GroupVersionKind())
	if err := s.Get(t.Context(), parameter, stored); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	eventually(t, "istiod is refused without the parameter", func() error {
		if got := s.create(t.Context(), namespace, istiod); got.err == nil || !strings.Contains(got.err.Error(), "no params found") {
			return fmt.Errorf("got %w", got.err)
		}
		return nil
	})
	s.mustCreate(t, p.Parameter.DeepCopy())
	s.inForce(t, namespace, patches.Deployment, istiod)
}
