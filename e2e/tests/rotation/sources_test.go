// SPDX-License-Identifier: Apache-2.0

package rotation

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// authority is the path of a VirtualMesh's CA.
var authority = []string{"spec", "mtlsConfig", "shared", "intermediateCertificateAuthority"}

// A VirtualMesh moves from Vault to an issuer of cert-manager under the same root, and back. No handshake fails, and the root
// that the workloads trust does not change.
func TestOtherSourceUnderTheSameRoot(t *testing.T) {
	m := newMesh(t)
	m.startCertManager(t)
	m.apply(t)
	m.replica(t, "istiod-0")
	m.replica(t, "istiod-1")
	workloads, done := m.talk(t)
	m.signedBy(t, "O=my-org")
	m.published(t, m.root.Certificate)
	workloads.renewed(t)

	crt, key := m.intermediate(t)
	must(t, certmanager.CreateCAIssuer(t.Context(), shared, m.namespace, "mesh", []byte(string(crt)+"\n"+string(m.root.Certificate)), key))
	fromVault, _, err := unstructured.NestedMap(m.object.Object, authority...)
	must(t, err)
	m.change(t, map[string]any{"certManager": map[string]any{"issuerRef": map[string]any{"name": "mesh"}}})
	m.signedBy(t, "CN=mesh-issuer")
	workloads.renewed(t)

	m.change(t, fromVault)
	m.signedBy(t, "O=my-org")
	workloads.renewed(t)
	m.published(t, m.root.Certificate)
	done()
	for _, each := range workloads.workloads {
		if !each.trusts(m.root.Certificate) || strings.Count(string(each.trusted), "BEGIN CERTIFICATE") != 1 {
			t.Errorf("%s trusts other roots:\n%s", each.name, each.trusted)
		}
	}
}

// Under another root, the source changes with the stages of the root change: the VirtualMesh may name it at any time, and the
// agents ask it once the workloads trust its root.
func TestOtherSourceUnderAnotherRoot(t *testing.T) {
	m := newMesh(t)
	m.startCertManager(t)
	m.apply(t)
	m.replica(t, "istiod-0")
	m.replica(t, "istiod-1")
	workloads, done := m.talk(t)
	m.signedBy(t, "O=my-org")

	root := testca.Root("other-root")
	template := testca.Authority("")
	template.Subject = pkix.Name{CommonName: "mesh-issuer"}
	template.MaxPathLen = 1
	issuer := root.Sign(template, nil)
	must(t, certmanager.CreateCAIssuer(t.Context(), shared, m.namespace, "mesh", append(issuer.PEM(), root.PEM()...), issuer.KeyPEM()))
	m.object.SetAnnotations(map[string]string{
		networkingv1.TrustedRootsAnnotation: string(m.root.Certificate) + "\n" + string(root.PEM()),
		networkingv1.RootRotationAnnotation: string(networkingv1.RotateTrustBoth),
	})
	must(t, unstructured.SetNestedMap(m.object.Object, map[string]any{"certManager": map[string]any{"issuerRef": map[string]any{"name": "mesh"}}}, authority...))
	m.apply(t)
	m.reached(t, networkingv1.StageTrustBoth)
	m.published(t, m.root.Certificate, root.PEM())
	m.signedBy(t, "O=my-org") // still
	workloads.renewed(t)

	m.stage(t, networkingv1.RotateSignWithNew)
	cluster.Eventually(t, "the IssuedCertificate names the issuer", func() error { return m.names("certManager") })
	m.renew(t)
	m.reached(t, networkingv1.StageSignWithNew)
	m.signedBy(t, "CN=mesh-issuer")
	workloads.renewed(t)

	m.stage(t, networkingv1.RotateDropOld)
	m.reached(t, networkingv1.StageDropOld)
	m.published(t, root.PEM())
	workloads.renewed(t)
	done()
	workloads.trustAlone(t, root.PEM(), m.root.Certificate)
}

func (m *mesh) startCertManager(t *testing.T) {
	t.Helper()
	running, err := certmanager.Start(t.Context(), shared.Plane)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(running.Output())
		}
		must(t, running.Stop())
	})
	must(t, agents.GrantRequests(t.Context(), shared, m.namespace))
}

// intermediate is a CA of an issuer, which the root in Vault has signed.
func (m *mesh) intermediate(t *testing.T) (crt, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "mesh-issuer"}}, private)
	must(t, err)
	answer, err := m.vault.Client.Logical().WriteWithContext(t.Context(), "pki/root/sign-intermediate", map[string]any{
		"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), "common_name": "mesh-issuer", "max_path_length": 1, "ttl": "4000h",
	})
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return []byte(answer.Data["certificate"].(string)), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// change names another source, and renews at once.
func (m *mesh) change(t *testing.T, source map[string]any) {
	t.Helper()
	must(t, unstructured.SetNestedMap(m.object.Object, source, authority...))
	m.apply(t)
	for kind := range source {
		cluster.Eventually(t, "the IssuedCertificate names the new source", func() error { return m.names(kind) })
	}
	m.renew(t)
}

func (m *mesh) stage(t *testing.T, word networkingv1.RootRotation) {
	t.Helper()
	annotations := m.object.GetAnnotations()
	annotations[networkingv1.RootRotationAnnotation] = string(word)
	m.object.SetAnnotations(annotations)
	m.apply(t)
}

func (m *mesh) renew(t *testing.T) {
	t.Helper()
	kubeconfig, err := shared.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	plugin.Run(t.Context(), "", "renew", "istiod-"+m.namespace+"-cluster-1", "-n", m.namespace, "--kubeconfig", kubeconfig, "--timeout", "2m").Wants(t, 0)
}

func (m *mesh) certificate() (*unstructured.Unstructured, error) {
	stored := &unstructured.Unstructured{}
	stored.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	err := shared.Get(context.Background(), client.ObjectKey{Namespace: m.namespace, Name: "istiod-" + m.namespace + "-cluster-1"}, stored)
	return stored, err
}

// names returns an error unless the IssuedCertificate has this source and no other.
func (m *mesh) names(kind string) error {
	stored, err := m.certificate()
	if err != nil {
		return err
	}
	source, _, _ := unstructured.NestedMap(stored.Object, "spec", "agentCa")
	if _, found := source[kind]; !found || len(source) != 1 {
		return fmt.Errorf("its source is %v", source)
	}
	return nil
}

// signedBy waits until both istiods use a CA certificate of an issuer.
func (m *mesh) signedBy(t *testing.T, issuer string) {
	t.Helper()
	cluster.Within(t, 2*time.Minute, "istiod's CA is signed by "+issuer, func() error {
		stored, err := m.certificate()
		if err != nil {
			return err
		}
		var status certificatesv1.IssuedCertificateStatus
		content, _, _ := unstructured.NestedMap(stored.Object, "status")
		must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(content, &status))
		if len(status.Certificates) != 2 {
			return errors.New("not both replicas have reported")
		}
		for _, each := range status.Certificates {
			if each.Issuer != issuer || !each.Confirmed || each.Error != "" {
				return fmt.Errorf("%s: issuer %s, confirmed %t, error %q", each.Pod, each.Issuer, each.Confirmed, each.Error)
			}
		}
		return nil
	})
}
