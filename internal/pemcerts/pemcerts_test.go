// SPDX-License-Identifier: Apache-2.0

package pemcerts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// root signs itself.
func root(t *testing.T, change func(*x509.Certificate)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A status, a log line and a TLS handshake hold what is in a certificate.
func TestParseOneBoundsACertificate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change  func(*x509.Certificate)
		problem string
	}{
		"as usual":                    {func(*x509.Certificate) {}, ""},
		"with the longest serial":     {func(c *x509.Certificate) { c.SerialNumber.Lsh(big.NewInt(1), 20*8-2) }, ""},
		"with a serial of a kilobyte": {func(c *x509.Certificate) { c.SerialNumber.Lsh(big.NewInt(1), 1<<13) }, "serial number"},
		"with a subject of thousands of parts": {func(c *x509.Certificate) {
			for range 5_000 {
				c.Subject.OrganizationalUnit = append(c.Subject.OrganizationalUnit, "unit")
			}
		}, "is larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseOne(root(t, test.change))
			if (test.problem == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), test.problem)) {
				t.Errorf("want %q, got %v", test.problem, err)
			}
		})
	}
}

func TestParseRootsBoundsTheirNumber(t *testing.T) {
	t.Parallel()
	var text []byte
	for i := range maxRoots {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root(t, func(c *x509.Certificate) { c.SerialNumber.SetInt64(int64(i + 1)) })})...)
	}
	if _, err := ParseRoots(text); err != nil {
		t.Errorf("%d roots: %v", maxRoots, err)
	}
	text = append(text, text...)
	if _, err := ParseRoots(text); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%d roots: %v", 2*maxRoots, err)
	}
}
