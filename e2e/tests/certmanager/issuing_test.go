// SPDX-License-Identifier: Apache-2.0

package certmanager_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

// podLabel is the label of an agent's requests.
const podLabel = "istiod-agent.io/pod"

// istiod is a Pod of istiod in a namespace of its own, whose agent may request certificates.
type istiod struct {
	*agents.Pod
	certificate *unstructured.Unstructured
}

func newIstiod(t *testing.T, granted bool) *istiod {
	t.Helper()
	must(t, agents.Install(t.Context(), shared))
	namespace := shared.Namespace(t, false)
	pod, err := agents.NewPod(t.Context(), shared, namespace, "istiod-0", istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	if granted {
		must(t, agents.GrantRequests(t.Context(), shared, namespace))
	}
	return &istiod{Pod: pod}
}

// specify writes the specification of an issuer.
func (i *istiod) specify(t *testing.T, certManager map[string]any) {
	t.Helper()
	i.specifyFor(t, 30, certManager)
}

func (i *istiod) specifyFor(t *testing.T, days int64, certManager map[string]any) {
	t.Helper()
	i.certificate = i.Certificate("", func(_, options map[string]any) { options["ecKeyCurve"], options["ttlDays"] = "P-256", days })
	must(t, unstructured.SetNestedField(i.certificate.Object, map[string]any{"certManager": certManager}, "spec", "agentCa"))
	_, err := shared.ServerSideApply(t.Context(), i.certificate)
	must(t, err)
}

// caIssuer creates a CA issuer with a key and chain.
func (i *istiod) caIssuer(t *testing.T, name string, signer *testca.Certificate, chain ...*testca.Certificate) map[string]any {
	t.Helper()
	crt := signer.PEM()
	for _, above := range chain {
		crt = append(crt, above.PEM()...)
	}
	must(t, certmanager.CreateCAIssuer(t.Context(), shared, i.Namespace, name, crt, signer.KeyPEM()))
	return map[string]any{"issuerRef": map[string]any{"name": name}}
}

func (i *istiod) issuer(t *testing.T, name string, config cmapi.IssuerConfig) map[string]any {
	t.Helper()
	must(t, shared.Create(t.Context(), &cmapi.Issuer{ObjectMeta: metav1.ObjectMeta{Namespace: i.Namespace, Name: name}, Spec: cmapi.IssuerSpec{IssuerConfig: config}}))
	return map[string]any{"issuerRef": map[string]any{"name": name}}
}

func (i *istiod) requests(t *testing.T) []cmapi.CertificateRequest {
	t.Helper()
	list := &cmapi.CertificateRequestList{}
	must(t, shared.List(t.Context(), list, client.InNamespace(i.Namespace)))
	return list.Items
}

// refused expects the init container to fail with a reason and a text, and to leave no request and no file.
func (i *istiod) refused(t *testing.T, reason, text string) {
	t.Helper()
	output, err := i.Init(t.Context(), "--timeout", "15s")
	if err == nil || !strings.Contains(output, "reason="+reason) || !strings.Contains(output, text) || strings.Contains(output, "PRIVATE KEY") {
		t.Errorf("want %s and %q in:\n%s", reason, text, output)
	}
	if left := i.requests(t); len(left) > 0 {
		t.Errorf("%d requests are left", len(left))
	}
	entries, err := os.ReadDir(i.CACerts)
	must(t, err)
	if len(entries) > 0 {
		t.Errorf("%d files were published", len(entries))
	}
}

// chain is a root and an issuer below it that allows one CA more.
func chain(pathLength int) (root, issuer *testca.Certificate) {
	root = testca.Root("mesh-root")
	template := testca.Authority("mesh-issuer")
	template.MaxPathLen, template.MaxPathLenZero = pathLength, pathLength == 0
	return root, root.Sign(template, nil)
}

// cert-manager's own issuers sign istiod's CA certificate; what they cannot sign, and what istiod should not have, is refused.
func TestIssuing(t *testing.T) {
	startCertManager(t)
	root, limited := chain(1)
	t.Run("an issuer that limits the path length", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, true)
		i.specify(t, i.caIssuer(t, "istio-ca", limited, root))
		output, err := i.Init(t.Context())
		must(t, err)
		files := i.Files(t)
		if strings.TrimSpace(files["root-cert.pem"]) != strings.TrimSpace(string(root.PEM())) {
			t.Errorf("the root is not the issuer's:\n%s", output)
		}
		if left := i.requests(t); len(left) > 0 {
			t.Errorf("%d requests are left", len(left))
		}
		secrets := &corev1.SecretList{}
		must(t, shared.List(t.Context(), secrets, client.InNamespace(i.Namespace)))
		if len(secrets.Items) != 1 { // the issuer's own
			t.Errorf("there are %d Secrets", len(secrets.Items))
		}
	})
	t.Run("an issuer that limits nothing", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, true)
		spec := i.caIssuer(t, "istio-ca", testca.Root("mesh-root"))
		i.specify(t, spec)
		i.refused(t, "BadPathLength", "its path length is not 0")
		spec["allowUnboundedPathLength"] = true
		i.specify(t, spec)
		_, err := i.Init(t.Context())
		must(t, err)
	})
	t.Run("name constraints of the CSR", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, true)
		i.specify(t, i.caIssuer(t, "istio-ca", limited, root))
		must(t, unstructured.SetNestedSlice(i.certificate.Object, []any{"cluster.local"}, "spec", "certOptions", "permittedURIDomains"))
		_, err := shared.ServerSideApply(t.Context(), i.certificate)
		must(t, err)
		_, err = i.Init(t.Context())
		must(t, err)
		block, _ := pem.Decode([]byte(i.Files(t)["ca-cert.pem"]))
		authority, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		if !slices.Equal(authority.PermittedURIDomains, []string{"cluster.local"}) || !authority.PermittedDNSDomainsCritical {
			t.Errorf("the CA permits %q, critical: %t", authority.PermittedURIDomains, authority.PermittedDNSDomainsCritical)
		}
	})
	t.Run("an issuer that ends before its root", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, true)
		i.specify(t, i.caIssuer(t, "istio-ca", limited))
		i.refused(t, "NoRoot", "spec.agentCa.trustedRoots")
		must(t, unstructured.SetNestedField(i.certificate.Object, string(root.PEM()), "spec", "agentCa", "trustedRoots", "pem"))
		_, err := shared.ServerSideApply(t.Context(), i.certificate)
		must(t, err)
		_, err = i.Init(t.Context())
		must(t, err)
	})
	t.Run("an issuer that cannot sign it", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, true)
		i.specify(t, i.issuer(t, "self-signed", cmapi.IssuerConfig{SelfSigned: &cmapi.SelfSignedIssuer{}}))
		i.refused(t, "CertManagerFailed", "cert-manager.io/private-key-secret-name")
	})
	t.Run("an issuer that drops the organization", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, true)
		server, err := vaultserver.Start(t.Context(), vaultserver.Options{})
		must(t, err)
		t.Cleanup(func() { must(t, server.Stop()) })
		_, err = server.Guide(t.Context(), vaultserver.GuideOptions{
			Cluster: shared.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: i.Namespace, Root: vaultserver.FastRoot,
		})
		must(t, err)
		must(t, shared.Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: i.Namespace, Name: "vault"}, StringData: map[string]string{"token": server.Client.Token()},
		}))
		i.specify(t, i.issuer(t, "vault", cmapi.IssuerConfig{Vault: &cmapi.VaultIssuer{
			Server: server.Address, Path: "pki/root/sign-intermediate",
			Auth: cmapi.VaultAuth{TokenSecretRef: &cmmeta.SecretKeySelector{LocalObjectReference: cmmeta.LocalObjectReference{Name: "vault"}, Key: "token"}},
		}}))
		i.refused(t, "WrongOrganization", "organization")
	})
	t.Run("an issuer that is not there", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, true)
		i.specify(t, map[string]any{"issuerRef": map[string]any{"name": "none"}})
		i.refused(t, "CertManagerWaitingForIssuer", `Referenced \"Issuer\" not found`)
	})
	t.Run("without the right", func(t *testing.T) {
		t.Parallel()
		i := newIstiod(t, false)
		i.specify(t, map[string]any{"issuerRef": map[string]any{"name": "any"}})
		i.refused(t, "CertManagerForbidden", "certificaterequests of cert-manager.io")
	})
}

// Without cert-manager's controllers, the test decides about each request, as an approver and an external issuer do.
func TestDecisions(t *testing.T) {
	must(t, certmanager.InstallCRDs(t.Context(), shared.Plane))
	root, limited := chain(1)
	i := newIstiod(t, true)
	left := request(i.Namespace, "left-by-a-killed-agent", map[string]string{podLabel: i.Name})
	others := request(i.Namespace, "of-another-pod", map[string]string{podLabel: "istiod-1"})
	must(t, errors.Join(shared.Create(t.Context(), left), shared.Create(t.Context(), others)))
	i.specify(t, map[string]any{"issuerRef": map[string]any{"name": "external", "kind": "ExternalIssuer", "group": "issuers.example.com"}})

	sidecar, err := i.Sidecar(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, sidecar.Kill()) })
	mine := i.waitForRequest(t)
	if err := shared.Get(t.Context(), client.ObjectKeyFromObject(left), left); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the request of a killed agent is still there: %v", err)
	}
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(others), others))
	if s := mine.Spec; !s.IsCA || s.Duration.Hours() != 30*24 || fmt.Sprint(s.Usages) != "[cert sign crl sign]" || mine.Annotations["istiod-agent.io/hosts"] == "" ||
		mine.Annotations["istiod-agent.io/issued-certificate"] != i.certificate.GetName() || !strings.HasPrefix(mine.Name, i.Name+"-") {
		t.Errorf("requested %+v", s)
	}
	i.wantStatus(t, "REQUESTED", "CertManagerWaitingForApproval")

	i.decide(t, mine, cmapi.CertificateRequestConditionDenied, cmmeta.ConditionTrue, "policy", "too long a life\x1b[2J")
	i.wantStatus(t, "FAILED", "CertManagerDenied")
	mine = i.waitForAnother(t, mine)
	i.decide(t, mine, cmapi.CertificateRequestConditionInvalidRequest, cmmeta.ConditionTrue, "x", "no CAs here")
	i.wantStatus(t, "FAILED", "CertManagerInvalidRequest")
	mine = i.waitForAnother(t, mine)
	must(t, shared.Delete(t.Context(), mine))
	i.wantStatus(t, "FAILED", "CertManagerRequestDeleted")
	mine = i.waitForAnother(t, mine)
	i.decide(t, mine, cmapi.CertificateRequestConditionApproved, cmmeta.ConditionTrue, "x", "approved")
	i.wantStatus(t, "REQUESTED", "CertManagerWaitingForIssuer")

	mine.Status.Certificate, mine.Status.CA = sign(t, mine, limited), append(limited.PEM(), root.PEM()...)
	i.decide(t, mine, cmapi.CertificateRequestConditionReady, cmmeta.ConditionTrue, "Issued", "signed")
	cluster.Eventually(t, "the certificate is published", func() error {
		_, err := sidecar.Get(t.Context(), "/readyz")
		return err
	})
	cluster.Eventually(t, "the request is deleted", func() error {
		if n := len(i.requests(t)); n != 1 { // another Pod's
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	if output := sidecar.Output(); strings.Contains(output, "PRIVATE KEY") || strings.Contains(output, "\x1b") {
		t.Errorf("a key or a control character in:\n%s", output)
	}
}

func request(namespace, name string, labels map[string]string) *cmapi.CertificateRequest {
	return &cmapi.CertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: cmapi.CertificateRequestSpec{
			Request: []byte("none"), IssuerRef: cmmeta.IssuerReference{Name: "external", Kind: "ExternalIssuer", Group: "issuers.example.com"},
		},
	}
}

// mine returns the undecided request of this Pod's agent.
func (i *istiod) mine(t *testing.T) *cmapi.CertificateRequest {
	t.Helper()
	for _, each := range i.requests(t) {
		if each.Labels[podLabel] == i.Name && each.GenerateName != "" {
			return &each
		}
	}
	return nil
}

func (i *istiod) waitForRequest(t *testing.T) *cmapi.CertificateRequest {
	t.Helper()
	return i.waitForAnother(t, &cmapi.CertificateRequest{})
}

// waitForAnother waits for a request that is not the last one.
func (i *istiod) waitForAnother(t *testing.T, last *cmapi.CertificateRequest) (found *cmapi.CertificateRequest) {
	t.Helper()
	cluster.Eventually(t, "the agent makes a request", func() error {
		if found = i.mine(t); found == nil || found.UID == last.UID {
			return errors.New("there is none")
		}
		return nil
	})
	return found
}

// decide sets a condition, as an approver or issuer does.
func (i *istiod) decide(t *testing.T, of *cmapi.CertificateRequest, kind cmapi.CertificateRequestConditionType, status cmmeta.ConditionStatus, reason, message string) {
	t.Helper()
	of.Status.Conditions = append(of.Status.Conditions, cmapi.CertificateRequestCondition{Type: kind, Status: status, Reason: reason, Message: message})
	must(t, shared.Status().Update(t.Context(), of))
}

func (i *istiod) wantStatus(t *testing.T, state, reason string) {
	t.Helper()
	cluster.Eventually(t, "the status is "+state+" because of "+reason, func() error {
		stored := i.certificate.DeepCopy()
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored); err != nil {
			return err
		}
		entries, _, _ := unstructured.NestedSlice(stored.Object, "status", "certificates")
		got, _, _ := unstructured.NestedString(stored.Object, "status", "state")
		if len(entries) != 1 || got != state || entries[0].(map[string]any)["reason"] != reason {
			return fmt.Errorf("it is %s: %v", got, entries)
		}
		return nil
	})
}

// sign is an external issuer: it signs what the CSR says.
func sign(t *testing.T, of *cmapi.CertificateRequest, issuer *testca.Certificate) []byte {
	t.Helper()
	csr := parse(t, of.Spec.Request)
	template := testca.Authority("")
	template.Subject, template.URIs, template.MaxPathLenZero = csr.Subject, csr.URIs, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.NotBefore, template.NotAfter = begins(), begins().Add(of.Spec.Duration.Duration)
	return encode(issuer.SignPublic(template, csr.PublicKey))
}

func parse(t *testing.T, text []byte) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode(text)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	must(t, err)
	return csr
}

func encode(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

func begins() time.Time { return time.Now().Add(-time.Minute) }
