// SPDX-License-Identifier: Apache-2.0

package virtualmesh

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// issuer returns the guide's VirtualMesh with an issuer of cert-manager in place of Vault.
func (m *mesh) issuer(t *testing.T, name string, certManager map[string]any) *unstructured.Unstructured {
	return m.guide(t, name, func(spec map[string]any) {
		must(t, unstructured.SetNestedMap(spec, map[string]any{"certManager": certManager}, "mtlsConfig", "shared", "intermediateCertificateAuthority"))
	})
}

func (m *mesh) wantIssuer(issuer string) func(*certificatesv1.IssuedCertificate) error {
	return func(c *certificatesv1.IssuedCertificate) error {
		if ca := c.Spec.AgentCA; ca == nil || ca.Vault != nil || ca.CertManager == nil || ca.CertManager.IssuerRef == nil || ca.CertManager.IssuerRef.Name != issuer {
			return fmt.Errorf("the CA is %+v", ca)
		}
		return m.wantHost("cluster.local")(c)
	}
}

// A VirtualMesh names an issuer of cert-manager as it names a Vault, and moves between both.
func TestCertManager(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	must(t, shared.Create(t.Context(), m.istiod.DeepCopy()))
	m.apply(t, m.issuer(t, "virtual-mesh", map[string]any{"issuerRef": map[string]any{"kind": "ClusterIssuer", "name": "mesh"}}))
	found := m.wantCertificate(t, m.wantIssuer("mesh"))
	if ref := found.Spec.AgentCA.CertManager.IssuerRef; ref.Kind != "ClusterIssuer" || ref.Group != "cert-manager.io" {
		t.Errorf("the issuer is %+v", ref)
	}
	status := m.wantStatus(t, "virtual-mesh", networkingv1.Accepted, "")
	if at := status.Meshes[m.name()+".gloo-mesh."]; at.State != networkingv1.Accepted || at.IssuedCertificate == nil || at.IssuedCertificate.Name != m.name() {
		t.Errorf("the status of the mesh is %+v", at)
	}

	m.apply(t, m.guide(t, "virtual-mesh", nil))
	m.wantCertificate(t, m.wantServer("http://vault.vault:8200"))
	m.apply(t, m.issuer(t, "virtual-mesh", map[string]any{"issuerRef": map[string]any{"name": "istio-ca"}}))
	m.wantCertificate(t, m.wantIssuer("istio-ca"))
	if again := m.wantCertificate(t, m.wantIssuer("istio-ca")); again.UID != found.UID {
		t.Error("the IssuedCertificate was replaced")
	}
}

// Mistakes in an issuer are refused with the field's path; those of the schema also without the webhook.
func TestCertManagerValidation(t *testing.T) {
	t.Parallel()
	m := newMesh(t, "cluster.local")
	const (
		ca     = "spec.mtlsConfig.shared.intermediateCertificateAuthority"
		issuer = ca + ".certManager.issuerRef"
	)
	unwatched := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "other-"}} // the webhook only warns there
	must(t, shared.Create(t.Context(), unwatched))
	type fields = map[string]any
	for name, test := range map[string]struct {
		certManager fields
		field, says string
		// schema is the field that the schema's error names; empty where the schema accepts it.
		schema string
	}{
		"no issuer":          {fields{}, issuer, "expected the issuer", issuer},
		"no name":            {fields{"issuerRef": fields{"kind": "Issuer"}}, issuer + ".name", "expected the issuer's name", issuer},
		"an unknown kind":    {fields{"issuerRef": fields{"name": "mesh", "kind": "Vault"}}, issuer + ".kind", "Issuer", issuer + ".kind"},
		"a kind of no form":  {fields{"issuerRef": fields{"name": "mesh", "kind": "A/B", "group": "example.com"}}, issuer + ".kind", "expected a kind such as ClusterIssuer", ""},
		"a group of no form": {fields{"issuerRef": fields{"name": "mesh", "kind": "A", "group": "https://a"}}, issuer + ".group", "expected an API group", ""},
		"a name of no form":  {fields{"issuerRef": fields{"name": "../mesh"}}, issuer + ".name", "lower case", ""},
	} {
		t.Run(name, func(t *testing.T) {
			object := m.issuer(t, "virtual-mesh", test.certManager)
			wantInvalid(t, shared.Create(t.Context(), object.DeepCopy(), client.DryRunAll), test.field, test.says)
			object.SetNamespace(unwatched.Name)
			if err := shared.Create(t.Context(), object, client.DryRunAll); test.schema != "" {
				wantInvalid(t, err, test.schema, "expected")
			} else if err != nil {
				t.Errorf("the schema refuses it: %v", err)
			}
		})
	}
	for name, test := range map[string]struct {
		change        func(authority map[string]any)
		field, schema string
	}{
		"two CAs": {func(authority map[string]any) { authority["certManager"] = fields{"issuerRef": fields{"name": "mesh"}} }, ca + ".certManager", "set vault or certManager, not both"},
		"no CA":   {func(authority map[string]any) { delete(authority, "vault") }, ca, "vault or certManager"},
	} {
		t.Run(name, func(t *testing.T) {
			object := m.guide(t, "virtual-mesh", func(spec map[string]any) {
				authority, _, _ := unstructured.NestedFieldNoCopy(spec, "mtlsConfig", "shared", "intermediateCertificateAuthority")
				test.change(authority.(map[string]any))
			})
			wantInvalid(t, shared.Create(t.Context(), object.DeepCopy(), client.DryRunAll), test.field, "")
			object.SetNamespace(unwatched.Name)
			wantInvalid(t, shared.Create(t.Context(), object, client.DryRunAll), ca, test.schema)
		})
	}
}

func wantInvalid(t *testing.T, err error, field, says string) {
	t.Helper()
	var refusal apierrors.APIStatus
	if !errors.As(err, &refusal) || !apierrors.IsInvalid(err) {
		t.Fatalf("want a refusal, got: %v", err)
	}
	if !slices.ContainsFunc(refusal.Status().Details.Causes, func(cause metav1.StatusCause) bool {
		return cause.Field == field && strings.Contains(cause.Message, says)
	}) {
		t.Errorf("%s does not say %q: %v", field, says, err)
	}
}
