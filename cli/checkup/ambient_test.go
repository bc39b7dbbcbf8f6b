// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"errors"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func limit(t *testing.T, object *unstructured.Unstructured, path ...string) {
	t.Helper()
	if err := unstructured.SetNestedSlice(object.Object, []any{"cluster.local"}, append(path, "permittedURIDomains")...); err != nil {
		t.Fatal(err)
	}
}

// ztunnel is looked for only where it matters, by the label of its Pods whatever its name.
func TestReadAmbient(t *testing.T) {
	t.Parallel()
	daemonSet := func(name, app string) *appsv1.DaemonSet {
		return &appsv1.DaemonSet{
			ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: name},
			Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
		}
	}
	reader := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(daemonSet("istio-cni-node", "istio-cni-node"), daemonSet("proxy", "ztunnel")).Build()
	for name, test := range map[string]struct {
		change func(*clusterFacts)
		want   []string // nil where it is not looked for
	}{
		"no constraints": {func(*clusterFacts) {}, nil},
		"of a VirtualMesh": {func(f *clusterFacts) {
			limit(t, &f.Meshes.Value[0], "spec", "mtlsConfig", "shared", "intermediateCertOptions")
		}, []string{"VirtualMesh gloo-mesh/virtual-mesh"}},
		"of an ignored VirtualMesh": {func(f *clusterFacts) {
			limit(t, &f.Meshes.Value[0], "spec", "mtlsConfig", "shared", "intermediateCertOptions")
			f.Configuration.Value.VirtualMesh.Namespaces = []string{"other"}
		}, nil},
		"of an IssuedCertificate": {func(f *clusterFacts) { limit(t, &f.Certificates.Value[0], "spec", "certOptions") }, []string{"IssuedCertificate istio-system/istiod-istio-system-cluster-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := healthy(t)
			test.change(facts)
			got := readAmbient(t.Context(), reader, facts)
			switch {
			case test.want == nil && got != nil:
				t.Errorf("got %+v", got)
			case test.want != nil && (got == nil || !slices.Equal(got.Limited, test.want) || got.Ztunnels.Err != nil || !slices.Equal(got.Ztunnels.Value, []string{"istio-system/proxy"})):
				t.Errorf("got %+v, want %q", got, test.want)
			}
		})
	}
}

func TestAmbient(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ztunnels fact[[]string]
		status   level
		says     string
	}{
		"ztunnel":    {fact[[]string]{Value: []string{"istio-system/ztunnel"}}, levelFail, "ztunnel (istio-system/ztunnel) from Istio 1.29.3 rejects all certificates"},
		"no ztunnel": {fact[[]string]{}, levelOK, "there is no ztunnel"},
		"no right": {
			fact[[]string]{Err: apierrors.NewForbidden(schema.GroupResource{Resource: "daemonsets"}, "", errors.New("no"))}, levelUnknown, "looking for ztunnel",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := healthy(t)
			facts.Ambient = &ambientState{Limited: []string{"VirtualMesh gloo-mesh/virtual-mesh"}, Ztunnels: test.ztunnels}
			lines := decide("kubectl", facts, now)
			i := slices.IndexFunc(lines, func(f finding) bool { return f.What == "name constraints" })
			if i < 0 || lines[i].Status != test.status || !strings.Contains(lines[i].Detail, test.says) {
				t.Errorf("got %+v", lines)
			}
		})
	}
}
