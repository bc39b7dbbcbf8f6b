// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// check prints the command for the istiods that there are. A tenant's IssuedCertificate does not change it.
func TestVaultOptions(t *testing.T) {
	t.Parallel()
	certificate := func(namespace string, hosts ...any) unstructured.Unstructured {
		return unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": namespace}, "spec": map[string]any{"hosts": hosts}}}
	}
	istiod := istiodState{Name: "istiod", Namespace: "istio-system", ServiceAccount: "istiod"}
	canary := istiodState{Name: "istiod-canary", Namespace: "istio-system", ServiceAccount: "istiod-canary"}
	for name, test := range map[string]struct {
		istiods      []istiodState
		certificates []unstructured.Unstructured
		domain       string
		flags        string
	}{
		"the defaults": {istiods: []istiodState{istiod}, certificates: []unstructured.Unstructured{certificate("istio-system", "spiffe://cluster.local/ns/istio-system/sa/istiod")}},
		"a revision":   {istiods: []istiodState{istiod, canary}, flags: " --service-account=istiod --service-account=istiod-canary"},
		"a trust domain": {
			istiods: []istiodState{istiod},
			certificates: []unstructured.Unstructured{
				certificate("istio-system", "spiffe://corp.example.com/ns/istio-system/sa/istiod"),
				certificate("tenant", "spiffe://evil.example.com/ns/istio-system/sa/istiod", "spiffe://evil.example.com/ns/tenant/sa/istiod"),
			},
			domain: "corp.example.com", flags: " --trust-domain=corp.example.com",
		},
		"two trust domains": {
			istiods: []istiodState{istiod, canary},
			certificates: []unstructured.Unstructured{
				certificate("istio-system", "spiffe://a.example.com/ns/istio-system/sa/istiod"),
				certificate("istio-system", "spiffe://b.example.com/ns/istio-system/sa/istiod-canary", "no identity"),
			},
			flags: " --service-account=istiod --service-account=istiod-canary",
		},
	} {
		facts := &clusterFacts{}
		facts.Istiods.Value, facts.Certificates.Value = test.istiods, test.certificates
		options, flags := vaultOptions(facts)
		if options.TrustDomain != test.domain || flags != test.flags {
			t.Errorf("%s: %q, %q", name, options.TrustDomain, flags)
		}
	}
}
