// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"
)

// workloadLifetime bounds the throw-away certificate's.
const workloadLifetime = time.Hour

// verifyUse signs a throw-away certificate as istiod does (Istio security/pkg/pki/util/generate_cert.go), with the names of a
// workload and of istiod itself, and verifies it as a proxy does, for server and client. This finds what makes a CA with a
// valid chain unusable: extended key usages, name constraints, path lengths.
//
// hosts are istiod's SPIFFE IDs: workloads share their trust domain.
func (s *Set) verifyUse(hosts []string, now time.Time) error {
	chain := s.chain()
	now = begun(chain, now)
	template := &x509.Certificate{
		// Without a subject, Go makes the names critical, as istiod does.
		SerialNumber: big.NewInt(1), NotBefore: now, NotAfter: slices.MinFunc([]time.Time{s.NotAfter(), now.Add(workloadLifetime)}, time.Time.Compare),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, host := range hosts {
		id, err := url.Parse(host)
		if err != nil {
			return refuse(wrongNames, "istiod's name %q is not a URI", host)
		}
		template.URIs = append(template.URIs, &url.URL{Scheme: id.Scheme, Host: id.Host, Path: "/ns/default/sa/default"})
		if parts := strings.Split(id.Path, "/"); len(parts) > 2 && parts[1] == "ns" {
			template.DNSNames = append(template.DNSNames, "istiod."+parts[2]+".svc")
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return refuse(unusable, "no key for a test certificate could be generated: %v", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.certificate, key.Public(), s.key)
	if err != nil {
		return refuse(unusable, "it cannot sign a workload's certificate: %v", err)
	}
	workload, err := x509.ParseCertificate(der)
	if err != nil {
		return refuse(unusable, "a workload's certificate that it signed cannot be parsed: %v", err)
	}
	roots, intermediates := pools(chain)
	for _, use := range []struct {
		of    string
		usage x509.ExtKeyUsage
	}{{"servers", x509.ExtKeyUsageServerAuth}, {"clients", x509.ExtKeyUsageClientAuth}} {
		if _, err := workload.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use.usage},
		}); err != nil {
			return refuse(unusable, "proxies would not accept the certificates of %s that istiod signs with it (%v): "+
				"see the key usages and name constraints of the certificates in its chain", use.of, err)
		}
	}
	return s.verifyTrustDomains(hosts)
}

// Warnings describes what in a verified set may not work with every proxy.
func (s *Set) Warnings() (all []string) {
	for _, certificate := range s.chain() {
		if _, ok := certificate.PublicKey.(ed25519.PublicKey); ok {
			// BoringSSL verifies such a signature in a chain (crypto/x509/algorithm.cc) and does not offer the algorithm in
			// a handshake (kVerifySignatureAlgorithms in ssl/extensions.cc), by which a peer may choose its certificates;
			// OpenSSL and Go do both.
			all = append(all, plain(fmt.Sprintf("the key of %s in the CA's chain is Ed25519: Envoy does not offer it in TLS handshakes, so peers that select "+
				"certificates by that may fail to connect; use an EC P-256 or RSA key", certificate.Subject)))
		}
	}
	if chain := s.chain(); slices.ContainsFunc(chain, limitsURIs) {
		limited := chain[slices.IndexFunc(chain, limitsURIs)]
		// rustls-webpki supports no constraints for URIs, and rejects what they apply to since 0.103.12 (RUSTSEC-2026-0098),
		// which ztunnel 1.29.3 and 1.30.0 have (their Cargo.lock).
		all = append(all, plain(fmt.Sprintf("%s in the CA's chain has name constraints for URIs: ztunnel from Istio 1.29.3 rejects all certificates below it, "+
			"so that no workload in ambient mode can connect; remove the constraints if this mesh has ztunnel", limited.Subject)))
	}
	for _, root := range s.roots {
		if root.SignatureAlgorithm == x509.SHA1WithRSA || root.SignatureAlgorithm == x509.ECDSAWithSHA1 {
			all = append(all, plain(fmt.Sprintf("root %s is signed with SHA-1: istiod and Envoy accept that of a root, other TLS libraries and scanners may not; "+
				"plan a root with SHA-256", root.Subject)))
		}
	}
	return all
}
