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

	"github.com/hashicorp/vault/api"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

const (
	namespace = "istio-system"
	pod       = "istiod-0"
)

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	beKubectl()
	cluster.MainOfSeveral(m, cluster.Spec{Into: &one}, cluster.Spec{Into: &two})
}

// mesh is one of the two meshes.
type mesh struct {
	*cluster.Cluster
	domain spiffeid.TrustDomain
	vault  *vaultserver.Server
	root   *vaultserver.Root
	object *unstructured.Unstructured // the VirtualMesh
	istiod *istiodserver.Server
	// environment of istiod: SSL_CERT_FILE has the CAs that it trusts as a client, as a distribution's ca-certificates do.
	environment map[string]string
	directory   string // of the endpoint's certificate
}

// newMesh starts a mesh without istiod.
func newMesh(t *testing.T, c *cluster.Cluster, name, by string) *mesh {
	t.Helper()
	ctx := t.Context()
	m := &mesh{Cluster: c, domain: spiffeid.RequireTrustDomainFromString(name + ".example"), directory: t.TempDir()}
	clients, err := kubernetes.NewForConfig(c.Plane.Config)
	must(t, err)
	for _, each := range []string{namespace, "gloo-mesh"} {
		must(t, serviceaccount.EnsureNamespace(ctx, clients, each))
	}
	must(t, m.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: namespace, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: " + m.domain.Name()},
	}))
	must(t, c.Install(ctx, webhookserver.Options{
		Values: helm.Values{
			"clusterName": name, "injection": helm.Values{"by": by},
			"bundleEndpoint": helm.Values{"enabled": true, "secretName": "trust"},
		},
		Configuration: map[string]any{"server": map[string]any{"bundleEndpoint": map[string]any{"directory": m.directory}}},
		Replicas:      2,
	}))
	m.MustApply(t, cluster.Istiod(t, namespace))
	must(t, m.SetInjection(ctx, namespace, true))
	m.vault, err = vaultserver.Start(ctx, vaultserver.Options{Storage: true})
	must(t, err)
	t.Cleanup(func() { must(t, m.vault.Stop()) })
	m.root, err = m.vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: c.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace, Root: vaultserver.FastRoot,
	})
	must(t, err)
	must(t, agents.Install(ctx, c))
	m.object = &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.mesh.gloo.solo.io/v1", "kind": "VirtualMesh",
		"metadata": map[string]any{"name": "virtual-mesh", "namespace": "gloo-mesh"},
		"spec": map[string]any{
			"mtlsConfig": map[string]any{"shared": map[string]any{
				"intermediateCertOptions": map[string]any{"ecKeyCurve": "P-256"},
				"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
					"server": m.vault.Address, "caPath": "pki/root/sign-intermediate", "kubernetesAuth": map[string]any{"role": vaultserver.Role},
				}},
			}},
			"meshes": []any{map[string]any{"name": "istiod-istio-system-" + name}},
		},
	}}
	m.apply(t)
	return m
}

func (m *mesh) apply(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, "the VirtualMesh is accepted", func() error {
		_, err := m.ServerSideApply(t.Context(), m.object, client.ForceOwnership)
		return err
	})
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
	ctx := t.Context()
	agent, err := agents.NewPod(ctx, m.Cluster, namespace, pod, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	agent.Env = []string{"ISTIO_MULTIROOT_MESH=true"}
	_, err = agent.Init(ctx)
	must(t, err)
	m.environment = map[string]string{"ISTIO_MULTIROOT_MESH": "true"}
	m.trust(t, trusted)
	m.istiod, err = istiodserver.Start(ctx, istiodserver.Options{
		Plane: m.Plane, Namespace: namespace, CACerts: agent.CACerts, Pod: pod, Env: m.environment,
		MeshConfig: "trustDomain: " + m.domain.Name() + "\ntrustDomainAliases: [" + peer.domain.Name() + "]\ncaCertificates:\n- spiffeBundleUrl: " + peer.url(0),
	})
	must(t, err)
	t.Cleanup(func() { must(t, m.istiod.Stop()) })
	agent.IstiodAddress = m.istiod.SecureAddress
	sidecar, err := agent.Sidecar(ctx)
	must(t, err)
	t.Cleanup(func() {
		_ = sidecar.Stop(10 * time.Second)
		if t.Failed() {
			t.Log(m.domain, sidecar.Output())
		}
	})
}

// trust makes istiod trust a CA from its next start on.
func (m *mesh) trust(t *testing.T, ca *testca.Certificate) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca-certificates.crt")
	must(t, os.WriteFile(file, ca.PEM(), 0o600))
	m.environment["SSL_CERT_FILE"] = file
}

// mount lets Vault sign under another root too.
func (m *mesh) mount(t *testing.T, root *vaultserver.Root) {
	t.Helper()
	ctx := t.Context()
	must(t, m.vault.Client.Sys().MountWithContext(ctx, "pki2", &api.MountInput{Type: "pki"}))
	_, err := m.vault.Client.Logical().WriteWithContext(ctx, "pki2/config/ca", map[string]any{"pem_bundle": string(root.Key) + string(root.Certificate)})
	must(t, err)
	policy, err := m.vault.Client.Sys().GetPolicyWithContext(ctx, vaultserver.Role)
	must(t, err)
	must(t, m.vault.Client.Sys().PutPolicyWithContext(ctx, vaultserver.Role, policy+strings.ReplaceAll(policy, `"pki/`, `"pki2/`)))
}

// stage begins a stage of the change to another root (docs/rotation.md), signed by the new one or not yet, and waits for its end.
func (m *mesh) stage(t *testing.T, stage string, root *vaultserver.Root, signed bool) {
	t.Helper()
	m.object.SetAnnotations(map[string]string{
		"istiod-agent.io/trusted-roots": string(joined([][]byte{m.root.Certificate, root.Certificate})), "istiod-agent.io/root-rotation": stage,
	})
	if signed {
		must(t, unstructured.SetNestedField(m.object.Object, "pki2/root/sign-intermediate", "spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault", "caPath"))
	}
	m.apply(t)
	cluster.Within(t, 3*time.Minute, "stage "+stage+" is complete", func() error {
		stored := m.object.DeepCopy()
		if err := m.Get(t.Context(), client.ObjectKeyFromObject(m.object), stored); err != nil {
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

// published returns what istiod publishes in its own namespace.
func (m *mesh) published(t *testing.T) []byte {
	t.Helper()
	var roots []byte
	cluster.Eventually(t, "istiod publishes its root", func() (err error) {
		roots, err = m.istiod.PublishedRoot(t.Context(), namespace)
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
	issued, err := m.istiod.CSR(ctx, options)
	must(t, err)
	w := &workload{}
	w.certificate, err = issued.TLSCertificate()
	must(t, err)
	w.roots, err = m.istiod.TrustBundle(ctx, options)
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
