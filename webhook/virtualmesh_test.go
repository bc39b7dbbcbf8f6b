// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
)

func meshWith(mtls string) string {
	return `{"apiVersion":"networking.mesh.gloo.solo.io/v1","kind":"VirtualMesh","metadata":{"name":"mesh","namespace":"gloo-mesh"},` +
		`"spec":{"meshes":[{"name":"istiod-istio-system-cluster-1"}],"federation":{},"mtlsConfig":` + mtls + `}}`
}

const (
	goodVault = `{"shared":{"intermediateCertificateAuthority":{"vault":{"server":"https://vault:8200","caPath":"pki/root/sign-intermediate","kubernetesAuth":{"role":"istiod","audience":"vault"}}}}}`
	badVault  = `{"shared":{"intermediateCertificateAuthority":{"vault":{"server":"vault","caPath":"pki/sign/role","kubernetesAuth":{"role":"istiod","audience":"vault"}}}}}`
)

// A VirtualMesh that cannot be acted on is refused with every mistake and its path; what is not acted on is a warning.
func TestVirtualMeshes(t *testing.T) {
	for name, test := range map[string]struct {
		object, old string
		namespace   string // gloo-mesh by default
		allowed     bool
		says        []string
		warns       []string
		reason      string
	}{
		"a good one": {
			object: meshWith(goodVault), allowed: true, reason: "ValidVirtualMesh", warns: []string{"istiod-agent: spec.federation: is not acted on"},
		},
		"two mistakes": {
			object: meshWith(badVault), reason: "InvalidVirtualMesh", says: []string{
				"spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server", "spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.caPath",
			},
		},
		"a misspelt field": {
			object: meshWith(strings.Replace(goodVault, `"shared"`, `"autoRestartPod":true,"shared"`, 1)), allowed: true, reason: "ValidVirtualMesh",
			warns: []string{"spec.mtlsConfig.autoRestartPod: is not acted on", "spec.federation"},
		},
		"a number for a text": {
			object: meshWith(strings.Replace(goodVault, `"https://vault:8200"`, `8200`, 1)), reason: "InvalidVirtualMesh",
			says: []string{"spec.mtlsConfig.shared.intermediateCertificateAuthority.vault.server"},
		},
		"a bad one that was there before": {object: meshWith(badVault), old: meshWith(badVault), allowed: true, reason: "UnchangedSpecification"},
		"a good one made bad":             {object: meshWith(badVault), old: meshWith(goodVault), reason: "InvalidVirtualMesh", says: []string{"server"}},
		"one of a namespace that is not allowed": {
			object: strings.Replace(meshWith(goodVault), "gloo-mesh", "tenant", 1), namespace: "tenant", allowed: true, reason: "NamespaceNotAllowed",
			warns: []string{"istiod-agent: NamespaceNotAllowed: VirtualMeshes in namespace \"tenant\" are not acted on, only those in gloo-mesh, trust: move this one, or add \"tenant\" to the chart's value virtualMesh.namespaces"},
		},
		"a bad one of a namespace that is not allowed, which is for others to judge": {
			object: meshWith(badVault), namespace: "tenant", allowed: true, reason: "NamespaceNotAllowed", warns: []string{"virtualMesh.namespaces"},
		},
		"no JSON": {object: "{", reason: "Malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			request := admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
				Operation: admissionv1.Create, Namespace: cmp.Or(test.namespace, "gloo-mesh"), Object: runtime.RawExtension{Raw: []byte(test.object)},
			}}
			if test.old != "" {
				request.Operation, request.OldObject = admissionv1.Update, runtime.RawExtension{Raw: []byte(test.old)}
			}
			response := newVirtualMeshes(v1alpha1.VirtualMesh{Namespaces: []string{"gloo-mesh", "trust"}}, logr.Discard()).Handle(t.Context(), request)
			if response.Allowed != test.allowed || len(response.Patches) > 0 || response.AuditAnnotations["reason"] != test.reason {
				t.Errorf("got %+v", response)
			}
			for _, want := range test.says {
				if !strings.Contains(response.Result.Message, want) {
					t.Errorf("want %q in %q", want, response.Result.Message)
				}
			}
			if len(response.Warnings) != len(test.warns) {
				t.Errorf("warnings %q", response.Warnings)
			}
			for _, want := range test.warns {
				if !slices.ContainsFunc(response.Warnings, func(w string) bool { return strings.Contains(w, want) }) {
					t.Errorf("want %q in %q", want, response.Warnings)
				}
			}
		})
	}
}
