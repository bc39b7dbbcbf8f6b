// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// start is when these tests begin.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// testCA is a CA that signs leaves.
type testCA struct {
	*x509.Certificate
	key crypto.Signer
}

func newCA(_ *testing.T, name string, from, until time.Time) testCA {
	template := testca.Authority("")
	template.Subject = pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = from, until
	ca := testca.SelfSign(template, nil)
	return testCA{ca.Certificate, ca.Key}
}

func (a testCA) leaf(t *testing.T, until time.Time) *tls.Certificate {
	t.Helper()
	return a.leafFrom(t, start.Add(-time.Hour), until)
}

func (a testCA) leafFrom(_ *testing.T, from, until time.Time) *tls.Certificate {
	ca := testca.Certificate{Certificate: a.Certificate, Key: a.key}
	leaf := ca.Sign(x509.Certificate{DNSNames: []string{"localhost"}, NotBefore: from, NotAfter: until}, nil).TLS()
	return &leaf
}

func newKey(*testing.T) *ecdsa.PrivateKey { return testca.NewKey() }

func pemOf(cas ...testCA) []byte {
	var text []byte
	for _, ca := range cas {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...)
	}
	return text
}
