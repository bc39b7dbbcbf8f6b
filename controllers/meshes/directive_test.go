// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// With autoRestartPods each IssuedCertificate has a PodBounceDirective beside it, and without it none.
func TestThePodBounceDirective(t *testing.T) {
	at := types.NamespacedName{Namespace: "istio-system", Name: ours}
	for name, test := range map[string]struct {
		off     bool
		facts   func(*clusterFacts)
		planned bool   // the directive is kept as it is to be
		named   bool   // the IssuedCertificate names it
		says    string // in the mesh's warnings, or in what is not acted on
	}{
		"on":         {planned: true, named: true, says: "do not use it in production"},
		"off":        {off: true},
		"made by us": {facts: func(f *clusterFacts) { f.Directives[at] = true }, planned: true, named: true},
		"written by a person": {
			facts: func(f *clusterFacts) { f.Directives[at] = false }, named: true,
			says: "another program created PodBounceDirective istio-system/" + ours + ", which is used as it is",
		},
		"a person's, while it is off": {off: true, facts: func(f *clusterFacts) { f.Directives[at] = false }},
		"no rights": {
			facts: func(f *clusterFacts) { f.MissingRights = "the controller may not patch daemonsets" }, planned: true, named: true,
			says: "spec.mtlsConfig.autoRestartPods: is not acted on: the controller may not patch daemonsets",
		},
		"no rights, nor needed": {off: true, facts: func(f *clusterFacts) { f.MissingRights = "the controller may not patch daemonsets" }},
	} {
		t.Run(name, func(t *testing.T) {
			source := read(t, guide, nil)
			source.Spec.MTLSConfig.AutoRestartPods = !test.off
			known := facts("cluster-1", source)
			known.Directives = map[types.NamespacedName]bool{}
			if test.facts != nil {
				test.facts(&known)
			}
			plan := translate(source, networkingv1.VirtualMeshStatus{}, known)
			if got := len(plan.Directives) == 1; got != test.planned {
				t.Errorf("planned %+v", plan.Directives)
			}
			reference := plan.Certificates[0].Spec.PodBounceDirective
			if got := reference != nil && *reference == (certificatesv1.ObjectRef{Name: ours, Namespace: "istio-system"}); got != test.named {
				t.Errorf("the IssuedCertificate names %+v", reference)
			}
			status := plan.Status.Meshes[ours+".gloo-mesh."]
			if got := status.PodBounceDirective != nil; got != test.named {
				t.Errorf("the status names %+v", status.PodBounceDirective)
			}
			said := slices.Concat(status.Warnings, plan.Status.NotActedOn)
			if !strings.Contains(strings.Join(said, "\n"), test.says) || test.off && strings.Contains(strings.Join(said, "\n"), "autoRestartPods") {
				t.Errorf("said %q", said)
			}
		})
	}
}

func TestTheDirectiveIsForTheWholeMesh(t *testing.T) {
	source := read(t, guide, nil)
	plan := translate(source, networkingv1.VirtualMeshStatus{}, facts("cluster-1", source))
	got, err := yaml.Marshal(plan.Directives[0])
	if err != nil {
		t.Fatal(err)
	}
	const want = `apiVersion: certificates.mesh.gloo.solo.io/v1
kind: PodBounceDirective
metadata:
  annotations:
    istiod-agent.io/restart: mesh
    istiod-agent.io/virtual-mesh: gloo-mesh/virtual-mesh
  labels:
    app.kubernetes.io/managed-by: istiod-agent-webhook
  name: istiod-istio-system-cluster-1
  namespace: istio-system
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Where a change of the root is held, its restarts are held with it.
func TestAHeldRotationKeepsTheDirective(t *testing.T) {
	source := read(t, guide, nil)
	before := networkingv1.VirtualMeshStatus{RootRotation: &networkingv1.RootRotationStatus{Stage: networkingv1.StageSignWithNew}}
	plan := translate(source, before, facts("cluster-1", source))
	if len(plan.Directives) > 0 || !plan.Retain[ours] {
		t.Errorf("planned %+v, kept %v", plan.Directives, plan.Retain)
	}
}
