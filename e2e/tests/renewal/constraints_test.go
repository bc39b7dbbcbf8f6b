// SPDX-License-Identifier: Apache-2.0

package renewal

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// With permittedURIDomains, a real Vault signs the name constraints and a real istiod signs with them. Its workloads connect to
// each other, and nobody accepts a certificate of another trust domain, whoever signs it with istiod's key.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	m := newMesh(t, func(vault, certOptions map[string]any) {
		delete(vault, "csrPath")
		certOptions["ecKeyCurve"], certOptions["permittedURIDomains"] = "P-256", []any{"cluster.local"}
	})
	m.start(t)
	m.confirmed(t, "")
	authority, _ := m.file(t, "ca-cert.pem")
	if !slices.Equal(authority.PermittedURIDomains, []string{"cluster.local"}) || !authority.PermittedDNSDomainsCritical {
		t.Fatalf("the CA permits %q, critical: %t", authority.PermittedURIDomains, authority.PermittedDNSDomainsCritical)
	}
	m.wantEvent(t, "Warning", "CAWarning", "name constraints for URIs", "ztunnel")

	of := func(account string) tls.Certificate {
		workload, err := m.istiod.CSR(t.Context(), istiodserver.CSROptions{Namespace: m.Namespace, ServiceAccount: account, Root: m.root})
		must(t, err)
		must(t, workload.Verify(m.root))
		certificate, err := workload.TLSCertificate()
		must(t, err)
		return certificate
	}
	client, server := of("client"), of("server")
	must(t, connects(m.root, client, server))

	for name, id := range map[string]string{
		"another trust domain": "spiffe://other.domain/ns/default/sa/default",
		"one that contains it": "spiffe://evil.cluster.local.example/ns/default/sa/default",
	} {
		other := m.signWithIstiodsKey(t, id)
		for side, err := range map[string]error{
			"client": connects(m.root, other, server),
			"server": connects(m.root, client, other),
		} {
			invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
			if !ok || invalid.Reason != x509.CANotAuthorizedForThisName {
				t.Errorf("%s as %s: got %v", name, side, err)
			}
		}
	}
	must(t, connects(m.root, m.signWithIstiodsKey(t, "spiffe://cluster.local/ns/default/sa/default"), server))

	t.Run("OpenSSL", func(t *testing.T) { // which BoringSSL, and so Envoy, has this rule from
		openSSL, err := exec.LookPath("openssl")
		if err != nil {
			t.Skip(err)
		}
		for id, want := range map[string]string{
			"":                                       "OK",
			"spiffe://other.domain/ns/default/sa/x":  "permitted subtree violation",
			"spiffe://a.cluster.local/ns/a/sa/below": "permitted subtree violation", // which crypto/x509 permits
		} {
			leaf := client
			if id != "" {
				leaf = m.signWithIstiodsKey(t, id)
			}
			if output := m.openSSL(t, openSSL, leaf); !strings.Contains(output, want) {
				t.Errorf("%q: want %s, got %s", id, want, output)
			}
		}
	})
}

// openSSL returns what OpenSSL says of a workload's chain.
func (m *mesh) openSSL(t *testing.T, program string, workload tls.Certificate) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{"root.pem": m.root}
	for i, der := range workload.Certificate {
		name := "chain.pem"
		if i == 0 {
			name = "leaf.pem"
		}
		files[name] = append(files[name], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	for name, content := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	command := exec.CommandContext(t.Context(), program, "verify", "-CAfile", "root.pem", "-untrusted", "chain.pem", "leaf.pem")
	command.Dir = dir
	output, _ := command.CombinedOutput() // it fails for a refusal, too
	return string(output)
}

// signWithIstiodsKey returns a workload's certificate that istiod's published key signs.
func (m *mesh) signWithIstiodsKey(t *testing.T, id string) tls.Certificate {
	t.Helper()
	authority, err := tls.LoadX509KeyPair(filepath.Join(m.CACerts, "cert-chain.pem"), filepath.Join(m.CACerts, "ca-key.pem"))
	must(t, err)
	uri, err := url.Parse(id)
	must(t, err)
	leaf := (&testca.Certificate{Certificate: authority.Leaf, Key: authority.PrivateKey.(crypto.Signer)}).Sign(x509.Certificate{
		URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, nil)
	return tls.Certificate{Certificate: append([][]byte{leaf.Raw}, authority.Certificate...), PrivateKey: leaf.Key}
}

// connects makes a handshake in which each side verifies the other's chain, as SPIFFE's workloads do: without a DNS name.
func connects(root []byte, client, server tls.Certificate) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	config := func(own tls.Certificate, usage x509.ExtKeyUsage) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true,
			VerifyConnection: func(state tls.ConnectionState) error {
				intermediates := x509.NewCertPool()
				for _, certificate := range state.PeerCertificates[1:] {
					intermediates.AddCert(certificate)
				}
				_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}})
				return err
			},
		}
	}
	to, from := net.Pipe()
	defer to.Close()
	defer from.Close()
	deadline := time.Now().Add(10 * time.Second)
	_ = to.SetDeadline(deadline)
	_ = from.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() { served <- tls.Server(from, config(server, x509.ExtKeyUsageClientAuth)).Handshake() }()
	err := tls.Client(to, config(client, x509.ExtKeyUsageServerAuth)).Handshake()
	_ = to.Close()
	return errors.Join(err, <-served)
}
