// SPDX-License-Identifier: Apache-2.0

package vaultside

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

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// newCA makes a CA below another, or a root.
func newCA(t *testing.T, name string, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func TestRootOf(t *testing.T) {
	t.Parallel()
	root, key := newCA(t, "root", nil, nil)
	other, _ := newCA(t, "other", nil, nil)
	intermediate, _ := newCA(t, "intermediate", root, key)
	trusted := func(roots ...*x509.Certificate) *certificatesv1.TrustedRoots {
		var text strings.Builder
		for _, root := range roots {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
		}
		return &certificatesv1.TrustedRoots{PEM: text.String()}
	}
	for name, test := range map[string]struct {
		chain   []*x509.Certificate
		trusted *certificatesv1.TrustedRoots
		want    *x509.Certificate
		err     string
	}{
		"a chain with its root":            {[]*x509.Certificate{intermediate, root}, nil, root, ""},
		"a chain without a root":           {[]*x509.Certificate{intermediate}, nil, nil, "does not reach a root"},
		"a trusted root":                   {[]*x509.Certificate{intermediate, root}, trusted(other, root), root, ""},
		"a root that is not trusted":       {[]*x509.Certificate{intermediate, root}, trusted(other), nil, "is not one of trustedRoots"},
		"completed by a trusted root":      {[]*x509.Certificate{intermediate}, trusted(other, root), root, ""},
		"completed by no trusted root":     {[]*x509.Certificate{intermediate}, trusted(other), nil, "does not reach a root"},
		"trusted roots in a ConfigMap":     {[]*x509.Certificate{intermediate, root}, &certificatesv1.TrustedRoots{ConfigMapRef: &certificatesv1.ConfigMapKeyRef{Name: "roots"}}, root, ""},
		"trusted roots that are no roots":  {[]*x509.Certificate{intermediate, root}, trusted(intermediate), nil, "cannot be compared with trustedRoots"},
		"trusted roots that do not decode": {[]*x509.Certificate{root}, &certificatesv1.TrustedRoots{PEM: "text"}, nil, "cannot be compared with trustedRoots"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := rootOf(test.chain, test.trusted)
			if got != test.want && (got == nil || test.want == nil || !got.Equal(test.want)) || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
