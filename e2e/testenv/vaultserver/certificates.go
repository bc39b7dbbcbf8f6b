// SPDX-License-Identifier: Apache-2.0

package vaultserver

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// Root is a self-signed CA in PEM, with its key as PKCS #8.
type Root struct{ Certificate, Key []byte }

// GuideRoot returns the root that the guide makes by openssl: RSA 4096, 3650 days, organization my-org. It is made once in
// each process, since such a key takes seconds.
var GuideRoot = sync.OnceValues(func() (*Root, error) {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return nil, err
	}
	return newRoot(key), nil
})

// FastRoot makes a new root like GuideRoot's with a P-256 key.
func FastRoot() (*Root, error) {
	return newRoot(testca.NewKey()), nil
}

// newRoot makes the certificate of `openssl req -x509 -days 3650 -subj "/O=my-org"`, which has no key usages. It is an hour
// old: Vault refuses to sign with a CA younger than the 30 seconds by which it backdates certificates
// ("notBefore before signer's notBefore").
func newRoot(key crypto.Signer) *Root {
	template := testca.Authority("my-org")
	template.KeyUsage = 0
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = template.NotBefore.AddDate(0, 0, 3650)
	root := testca.SelfSign(template, key)
	return &Root{Certificate: root.PEM(), Key: root.KeyPEM()}
}

// serveTLS writes a serving certificate for Vault, signed by a CA of its own.
func (s *Server) serveTLS() error {
	template := testca.Authority("Vault's CA")
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	authority := testca.SelfSign(template, nil)
	leaf := authority.Sign(x509.Certificate{
		Subject:     pkix.Name{CommonName: "vault"},
		NotBefore:   authority.NotBefore,
		NotAfter:    authority.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:    []string{"localhost"},
	}, nil)

	certificateFile, keyFile := filepath.Join(s.dir, "tls.crt"), filepath.Join(s.dir, "tls.key")
	if err := os.WriteFile(certificateFile, leaf.PEM(), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, leaf.KeyPEM(), 0o600); err != nil {
		return err
	}
	s.CA = authority.PEM()
	s.arguments = append(s.arguments, "--tls-cert", certificateFile, "--tls-key", keyFile)
	return nil
}
