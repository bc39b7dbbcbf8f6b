// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/cert-manager/cert-manager/pkg/util/pki"

	"github.com/istiod-agent/istiod-agent/internal/regular"
)

// admissionTLS configures the admission port, and the readiness check's connection to it.
type admissionTLS struct {
	server *tls.Config
	// probe is the readiness check's client certificate; nil if the port requires none.
	probe *tls.Certificate
}

// maxClientCA is more bytes than any bundle of CA certificates has.
const maxClientCA = 1 << 20

// newTLS returns the TLS configuration of the admission port, without its certificate. With a file of CA certificates, it
// requires client certificates that one of them signed.
func newTLS(clientCA string) (admissionTLS, error) {
	admission := admissionTLS{server: &tls.Config{MinVersion: tls.VersionTLS12}}
	if clientCA == "" {
		return admission, nil
	}
	content, err := regular.Read(clientCA, maxClientCA)
	if err != nil {
		return admission, fmt.Errorf("server.clientCA: %w", err)
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(content) {
		return admission, errors.New("server.clientCA: " + clientCA + " contains no PEM certificate")
	}
	probe, err := probeCertificate(time.Now())
	if err != nil {
		return admission, fmt.Errorf("making the readiness check's client certificate: %w", err)
	}
	trusted.AddCert(probe.Leaf)
	admission.probe = probe
	admission.server.ClientCAs, admission.server.ClientAuth = trusted, tls.RequireAndVerifyClientCert
	return admission, nil
}

// probeCertificate is a self-signed client certificate that only this process has.
func probeCertificate(now time.Time) (*tls.Certificate, error) {
	key, err := pki.GenerateECPrivateKey(pki.ECCurve256)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "readiness check"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(100, 0, 0), // the process does not live longer
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	_, leaf, err := pki.SignCertificate(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}
