// SPDX-License-Identifier: Apache-2.0

// Package testca makes the keys and certificates that tests need. No program of the product may link it: its functions
// panic, since the only cause of an error is a template that cannot be signed.
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"time"
)

// Certificate is a certificate and its private key.
type Certificate struct {
	*x509.Certificate
	Key crypto.Signer
}

// Authority is the template of a CA with an organization. Its path length is not limited.
func Authority(organization string) x509.Certificate {
	return x509.Certificate{
		Subject: pkix.Name{Organization: []string{organization}},
		IsCA:    true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
}

// Root returns a self-signed CA.
func Root(organization string) *Certificate { return SelfSign(Authority(organization), nil) }

// SelfSign returns a certificate that is its own issuer. A nil key means a new P-256 key. A template without validity is
// valid from an hour ago for ten years; one without a serial number gets a random one.
func SelfSign(template x509.Certificate, key crypto.Signer) *Certificate {
	if key == nil {
		key = NewKey()
	}
	return (&Certificate{&template, key}).Sign(template, key)
}

// Sign returns a certificate whose issuer is c, with the defaults of SelfSign.
func (c *Certificate) Sign(template x509.Certificate, key crypto.Signer) *Certificate {
	if key == nil {
		key = NewKey()
	}
	return &Certificate{c.SignPublic(template, key.Public()), key}
}

// SignPublic is Sign for a public key alone.
func (c *Certificate) SignPublic(template x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	return must(x509.ParseCertificate(c.SignDER(template, key)))
}

// SignDER is SignPublic for a certificate that crypto/x509 cannot parse.
func (c *Certificate) SignDER(template x509.Certificate, key crypto.PublicKey) []byte {
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = template.NotBefore.AddDate(10, 0, 0)
	}
	return must(x509.CreateCertificate(rand.Reader, &template, c.Certificate, key, c.Key))
}

// NewKey returns a P-256 key.
func NewKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// PEM returns the certificate in PEM.
func (c *Certificate) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// KeyPEM returns the private key as PKCS #8, in PEM.
func (c *Certificate) KeyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(c.Key))})
}

// TLS returns the certificate and its key as a TLS server or client takes them.
func (c *Certificate) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.Key, Leaf: c.Certificate}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
