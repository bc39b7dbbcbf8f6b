// SPDX-License-Identifier: Apache-2.0

package vaultserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Root is a self-signed CA, in PEM, the key as PKCS #8.
type Root struct{ Certificate, Key []byte }

// GuideRoot is what the guide has openssl make: RSA 4096, for 3650 days, of
// organization my-org. It is made once in each test process: such a key takes
// seconds.
var GuideRoot = sync.OnceValues(func() (*Root, error) {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return nil, err
	}
	return newRoot(key)
})

// FastRoot is the same with a P-256 key, made anew each time.
func FastRoot() (*Root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return newRoot(key)
}

// newRoot makes what `openssl req -x509 -days 3650 -subj "/O=my-org"` does: a CA
// certificate without key usages. It is an hour old already: Vault signs nothing
// with a CA that is younger than the 30 seconds by which it dates certificates
// back ("notBefore before signer's notBefore").
func newRoot(key crypto.Signer) (*Root, error) {
	made := time.Now().Add(-time.Hour)
	der, err := sign(&x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"my-org"}},
		NotBefore:             made,
		NotAfter:              made.AddDate(0, 0, 3650),
		BasicConstraintsValid: true,
		IsCA:                  true,
	}, nil, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return &Root{Certificate: encode(der), Key: keyPEM}, nil
}

// serveTLS writes a serving certificate for Vault, of a CA made for it.
func (s *Server) serveTLS() error {
	now := time.Now()
	authority := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Vault's CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	authorityDER, err := sign(authority, nil, authorityKey.Public(), authorityKey)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "vault"},
		NotBefore:   authority.NotBefore,
		NotAfter:    authority.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:    []string{"localhost"},
	}, authority, key.Public(), authorityKey)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}

	certificateFile, keyFile := filepath.Join(s.dir, "tls.crt"), filepath.Join(s.dir, "tls.key")
	if err := os.WriteFile(certificateFile, encode(der), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, keyPEM, 0o600); err != nil {
		return err
	}
	s.CA = encode(authorityDER)
	s.arguments = append(s.arguments, "--tls-cert", certificateFile, "--tls-key", keyFile)
	return nil
}

// sign makes a certificate, self-signed without an issuer.
func sign(template, issuer *x509.Certificate, subject crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	if issuer == nil {
		issuer = template
	}
	return x509.CreateCertificate(rand.Reader, template, issuer, subject, signer)
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
