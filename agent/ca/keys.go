// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/url"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
)

// NewKey generates a key that never leaves this pod, and its certificate signing request (RFC 2986) with the names and, if any,
// the extensions that are requested. Both are PEM, the key PKCS#8.
func NewKey(request Request, extensions ...pkix.Extension) (key, csr []byte, err error) {
	private, err := generate(request.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("generating a key: %w", err)
	}
	template := x509.CertificateRequest{
		Subject:         pkix.Name{Organization: []string{request.Organization}, CommonName: request.Organization},
		ExtraExtensions: extensions,
	}
	for _, host := range request.Hosts {
		uri, err := url.Parse(host)
		if err != nil {
			return nil, nil, fmt.Errorf("host %q: %w", host, err)
		}
		template.URIs = append(template.URIs, uri)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, private)
	if err != nil {
		return nil, nil, fmt.Errorf("creating a certificate request: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

func generate(key cacerts.Key) (crypto.Signer, error) {
	switch {
	case key.Type == "rsa":
		return rsa.GenerateKey(rand.Reader, key.Bits)
	case key.Type == "ec" && key.Bits == 256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case key.Type == "ec" && key.Bits == 384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		return nil, fmt.Errorf("unsupported key type: %s of %d bits", key.Type, key.Bits)
	}
}
