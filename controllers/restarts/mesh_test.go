// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// An IssuedCertificate has nothing restarted outside its namespace.
func TestAnIssuedCertificateIsForItsNamespace(t *testing.T) {
	for name, test := range map[string]struct {
		reference map[string]any
		desired   types.NamespacedName
	}{
		"none":                 {nil, types.NamespacedName{Namespace: "istio-system"}},
		"no namespace":         {map[string]any{"name": "a"}, types.NamespacedName{Namespace: "istio-system", Name: "a"}},
		"its namespace":        {map[string]any{"name": "a", "namespace": "istio-system"}, types.NamespacedName{Namespace: "istio-system", Name: "a"}},
		"another's, of a mesh": {map[string]any{"name": "a", "namespace": "other"}, types.NamespacedName{}},
	} {
		t.Run(name, func(t *testing.T) {
			certificate := untyped(certificatesv1.Kind)
			certificate.SetNamespace("istio-system")
			certificate.Object["spec"] = map[string]any{"podBounceDirective": test.reference}
			if got := directiveOf(certificate); got != test.desired {
				t.Errorf("it names %s", got)
			}
		})
	}
	certificate := &certificatesv1.IssuedCertificate{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tenant"},
		Spec:       certificatesv1.IssuedCertificateSpec{Hosts: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod", "spiffe://cluster.local/ns/tenant/sa/istiod"}},
	}
	if got := identities(certificate); !slices.Equal(got, []types.NamespacedName{{Namespace: "tenant", Name: "istiod"}}) {
		t.Errorf("it is for %v", got)
	}
}

// A PodBounceDirective has nothing restarted where its namespace is not labelled for injection.
func TestOnlyLabelledNamespacesAreRestarted(t *testing.T) {
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "istio-system"}}
	builder := fake.NewClientBuilder().WithObjects(labelled).WithIndex(untyped(certificatesv1.Kind), byDirective, func(object client.Object) []string {
		return []string{directiveOf(object.(*unstructured.Unstructured)).String()}
	})
	for _, namespace := range []string{"istio-system", "tenant"} { // the cache holds no other namespaces than labelled ones
		certificate := untyped(certificatesv1.Kind)
		certificate.SetNamespace(namespace)
		certificate.SetName("istiod")
		certificate.Object["spec"] = map[string]any{"hosts": []any{"spiffe://cluster.local/ns/" + namespace + "/sa/istiod"}, "podBounceDirective": map[string]any{"name": "a"}}
		builder.WithObjects(certificate)
	}
	c := &reconciler{client: builder.Build()}
	for namespace, desired := range map[string]int{"istio-system": 1, "tenant": 0} {
		m, err := c.mesh(t.Context(), types.NamespacedName{Namespace: namespace, Name: "a"})
		if err != nil || len(m.certificates) != desired {
			t.Errorf("%s: %d IssuedCertificates count, want %d (%v)", namespace, len(m.certificates), desired, err)
		}
	}
}
