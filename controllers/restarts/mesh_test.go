// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// An IssuedCertificate has nothing restarted outside its namespace.
func TestAnIssuedCertificateIsForItsNamespace(t *testing.T) {
	for name, test := range map[string]struct {
		reference map[string]any
		want      types.NamespacedName
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
			if got := named(certificate); got != test.want {
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
