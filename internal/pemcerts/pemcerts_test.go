// SPDX-License-Identifier: Apache-2.0

package pemcerts

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// root signs itself.
func root(t *testing.T, change func(*x509.Certificate)) []byte {
	t.Helper()
	template := testca.Authority("root")
	template.SerialNumber = big.NewInt(1)
	change(&template)
	key := testca.NewKey()
	return (&testca.Certificate{Certificate: &template, Key: key}).SignDER(template, key.Public())
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
		"with an extension twice": {func(c *x509.Certificate) {
			c.ExtraExtensions = slices.Repeat([]pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}, 2)
		}, `a certificate in it cannot be read (x509: certificate contains duplicate extension with OID "1.2.3")`},
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
	for i := range MaxRoots {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root(t, func(c *x509.Certificate) { c.SerialNumber.SetInt64(int64(i + 1)) })})...)
	}
	if _, err := ParseRoots(text); err != nil {
		t.Errorf("%d roots: %v", MaxRoots, err)
	}
	text = append(text, text...)
	if _, err := ParseRoots(text); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%d roots: %v", 2*MaxRoots, err)
	}
}

// Go's own reason is told. A negative serial number is the one that old CAs' tools write.
func TestParseOneTellsTheReason(t *testing.T) {
	t.Parallel()
	der := root(t, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(5) })
	negative := bytes.Replace(der, []byte{2, 1, 5}, []byte{2, 1, 0x85}, 1)
	_, err := ParseOne(negative)
	if err == nil || err.Error() != "a certificate in it cannot be read (x509: negative serial number)" {
		t.Errorf("got %v", err)
	}
	if text := Unreadable(errors.New("x509: \x1b[2J" + strings.Repeat("a", 1000))); len(text) > maxReason || strings.Contains(text, "\x1b") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}
