// SPDX-License-Identifier: Apache-2.0

// Package bundle tests the SPIFFE bundle endpoint with two meshes of different roots and trust domains: each with an API
// server, a Vault, an istiod with its agent, and the chart, whose webhook injects in one of them, and whose policy in the other.
package bundle

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

const namespace = meshcluster.Namespace

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	beKubectl()
	cluster.MainOfSeveral(m, cluster.Spec{Into: &one}, cluster.Spec{Into: &two})
}

// mesh is one of the two meshes.
type mesh struct {
	*meshcluster.Cluster
	domain spiffeid.TrustDomain
	// environment of istiod: SSL_CERT_FILE has the CAs that it trusts as a client, as a distribution's ca-certificates do.
	environment map[string]string
	directory   string // of the endpoint's certificate
}

// newMesh starts a mesh without istiod.
func newMesh(t *testing.T, c *cluster.Cluster, name, by string) *mesh {
	t.Helper()
	m := &mesh{domain: spiffeid.RequireTrustDomainFromString(name + ".example"), directory: t.TempDir()}
	must(t, c.Install(t.Context(), webhookserver.Options{
		Values: helm.Values{
			"clusterName": name, "injection": helm.Values{"by": by},
			"bundleEndpoint": helm.Values{"enabled": true, "secretName": "trust"},
		},
		Configuration: map[string]any{"server": map[string]any{"bundleEndpoint": map[string]any{"directory": m.directory}}},
		Replicas:      2,
	}))
	m.Cluster = meshcluster.New(t, c, meshcluster.Options{Name: name, TrustDomain: m.domain.Name(), Vault: vaultserver.Options{Storage: true}})
	return m
}

// certify writes a certificate for the host, signed by a CA, as the Secret of the endpoint.
func (m *mesh) certify(t *testing.T, ca *testca.Certificate, host string) {
	t.Helper()
	certificate := ca.Sign(x509.Certificate{DNSNames: []string{host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: time.Now().Add(24 * time.Hour)}, nil)
	for name, content := range map[string][]byte{"tls.crt": certificate.PEM(), "tls.key": certificate.KeyPEM()} {
		file := filepath.Join(m.directory, name)
		must(t, os.WriteFile(file+".new", content, 0o600))
		must(t, os.Rename(file+".new", file))
	}
}

// url of a replica's endpoint.
func (m *mesh) url(replica int) string {
	return fmt.Sprintf("https://localhost:%d/", m.Webhook.Replicas[replica].BundlePort)
}

// start starts istiod with its agent. Its MeshConfig names the peer's endpoint, which may be served by the CA.
func (m *mesh) start(t *testing.T, peer *mesh, trusted *testca.Certificate) {
	t.Helper()
	m.environment = map[string]string{"ISTIO_MULTIROOT_MESH": "true"}
	m.trust(t, trusted)
	m.Start(t, istiodserver.Options{
		Env:        m.environment,
		MeshConfig: "trustDomain: " + m.domain.Name() + "\ntrustDomainAliases: [" + peer.domain.Name() + "]\ncaCertificates:\n- spiffeBundleUrl: " + peer.url(0),
	})
}

// trust makes istiod trust a CA from its next start on.
func (m *mesh) trust(t *testing.T, ca *testca.Certificate) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca-certificates.crt")
	must(t, os.WriteFile(file, ca.PEM(), 0o600))
	m.environment["SSL_CERT_FILE"] = file
}

// stage begins a stage of the change to another root (docs/rotation.md), signed by the new one or not yet, and waits for its end.
func (m *mesh) stage(t *testing.T, stage string, root *vaultserver.Root, signed bool) {
	t.Helper()
	m.VirtualMesh.SetAnnotations(map[string]string{
		"istiod-agent.io/trusted-roots": string(joined([][]byte{m.Root.Certificate, root.Certificate})), "istiod-agent.io/root-rotation": stage,
	})
	if signed {
		m.SignAt(t, "pki2")
	} else {
		m.ApplyMesh(t)
	}
	if stage == "sign-with-new" {
		m.renew(t)
	}
	cluster.Within(t, 3*time.Minute, "stage "+stage+" is complete", func() error {
		stored := m.VirtualMesh.DeepCopy()
		if err := m.Get(t.Context(), client.ObjectKeyFromObject(m.VirtualMesh), stored); err != nil {
			return err
		}
		name, _, _ := unstructured.NestedString(stored.Object, "status", "rootRotation", "stage")
		complete, _, _ := unstructured.NestedBool(stored.Object, "status", "rootRotation", "complete")
		if want := map[string]string{"trust-both": "TrustBoth", "sign-with-new": "SignWithNew", "drop-old": "DropOld"}[stage]; name != want || !complete {
			return fmt.Errorf("it is at %s, complete: %t", name, complete)
		}
		return nil
	})
}

// renew makes the agent renew at once: a change of the specification alone takes effect after a random delay.
func (m *mesh) renew(t *testing.T) {
	t.Helper()
	var certificate *unstructured.Unstructured
	cluster.Eventually(t, "the IssuedCertificate has the new mount", func() (err error) {
		if certificate, err = m.Issued(t.Context()); err != nil {
			return err
		}
		if path, _, _ := unstructured.NestedString(certificate.Object, "spec", "agentCa", "vault", "caPath"); path != "pki2/root/sign-intermediate" {
			return fmt.Errorf("it has %q", path)
		}
		return nil
	})
	must(t, agents.Renew(t.Context(), m.Cluster.Cluster, certificate, "new-root"))
}

// published returns what istiod publishes in its own namespace.
func (m *mesh) published(t *testing.T) []byte {
	t.Helper()
	var roots []byte
	cluster.Eventually(t, "istiod publishes its root", func() (err error) {
		roots, err = m.Istiod.PublishedRoot(t.Context(), namespace)
		return err
	})
	return roots
}

// workload is a workload's certificate with the roots that its istiod distributes.
type workload struct {
	certificate tls.Certificate
	roots       []string
}

func (m *mesh) workload(t *testing.T, name string) *workload {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	options := istiodserver.CSROptions{Namespace: "default", ServiceAccount: name, Root: m.published(t)}
	issued, err := m.Istiod.CSR(ctx, options)
	must(t, err)
	w := &workload{}
	w.certificate, err = issued.TLSCertificate()
	must(t, err)
	w.roots, err = m.Istiod.TrustBundle(ctx, options)
	must(t, err)
	return w
}

// distributes waits until istiod distributes these roots and no others.
func (m *mesh) distributes(t *testing.T, what string, roots ...[]byte) {
	t.Helper()
	cluster.Within(t, time.Minute, what, func() error {
		found := pool(t, m.workload(t, "observer").roots...)
		if want := pool(t, string(joined(roots))); !found.Equal(want) {
			return fmt.Errorf("istiod of %s distributes other roots", m.domain)
		}
		return nil
	})
}

func joined(texts [][]byte) []byte {
	var all []byte
	for _, text := range texts {
		all = append(append(all, text...), '\n')
	}
	return all
}

func pool(t *testing.T, roots ...string) *x509.CertPool {
	t.Helper()
	all := x509.NewCertPool()
	for _, root := range roots {
		if !all.AppendCertsFromPEM([]byte(root)) {
			t.Fatalf("not a root: %q", root)
		}
	}
	return all
}

// fetch reads a bundle as SPIRE does, for profile https_web with this CA.
func fetch(t *testing.T, m *mesh, replica int, trusted *testca.Certificate) (*spiffebundle.Bundle, error) {
	t.Helper()
	return federation.FetchBundle(t.Context(), m.domain, m.url(replica), federation.WithWebPKIRoots(pool(t, string(trusted.PEM()))))
}

// get requests the endpoint with a client that trusts a CA.
func get(t *testing.T, method, url string, trusted *testca.Certificate, body string) (*http.Response, error) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, string(trusted.PEM())), MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	return (&http.Client{Transport: transport}).Do(request)
}

// authority writes an intermediate CA as istiod reads it, without an agent.
func authority(t *testing.T) (cacerts string, root *testca.Certificate) {
	t.Helper()
	root = testca.Root("mesh")
	ca := root.Sign(testca.Authority("istiod"), nil)
	cacerts = t.TempDir()
	for name, content := range map[string][]byte{
		"ca-key.pem": ca.KeyPEM(), "ca-cert.pem": ca.PEM(), "cert-chain.pem": append(ca.PEM(), root.PEM()...), "root-cert.pem": root.PEM(),
	} {
		must(t, os.WriteFile(filepath.Join(cacerts, name), content, 0o600))
	}
	return cacerts, root
}
