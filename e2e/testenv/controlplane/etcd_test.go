// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// A key and a certificate are found in each form, wherever they begin in what is encoded.
func TestForms(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	authority, other := testca.Root("a"), testca.Root("b")
	ecKey := authority.Key.(*ecdsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	must(t, err)
	for name, test := range map[string]struct {
		ders  map[string][]byte // by the type of the PEM block
		other []byte
	}{
		"RSA":         {map[string][]byte{"PRIVATE KEY": pkcs8(t, rsaKey), "RSA PRIVATE KEY": x509.MarshalPKCS1PrivateKey(rsaKey)}, other.KeyPEM()},
		"ECDSA":       {map[string][]byte{"PRIVATE KEY": pkcs8(t, ecKey), "EC PRIVATE KEY": sec1}, other.KeyPEM()},
		"certificate": {map[string][]byte{"CERTIFICATE": authority.Raw}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for given, der := range test.ders {
				parts, err := forms(pem.EncodeToMemory(&pem.Block{Type: given, Bytes: der}))
				must(t, err)
				holds := func(content []byte) bool {
					for _, part := range parts {
						if bytes.Contains(content, part) {
							return true
						}
					}
					return false
				}
				for stored, content := range test.ders {
					for form, text := range map[string][]byte{"DER": content, "PEM": pem.EncodeToMemory(&pem.Block{Type: stored, Bytes: content})} {
						for before := range 50 { // also each place in a line of PEM
							plain := append(bytes.Repeat([]byte("x"), before), text...)
							for as, encode := range map[string]func([]byte) string{
								"itself":     func(b []byte) string { return string(b) },
								"base64":     base64.StdEncoding.EncodeToString,
								"base64 URL": base64.RawURLEncoding.EncodeToString,
								"PEM":        func(b []byte) string { return string(pem.EncodeToMemory(&pem.Block{Type: "ANY", Bytes: b})) },
							} {
								if form == "PEM" && as == "PEM" {
									continue // nothing stores that
								}
								if !holds([]byte(encode(plain))) {
									t.Errorf("given as %s, it is not found in %s %s as %s after %d bytes", given, stored, form, as, before)
								}
							}
						}
					}
					if !holds([]byte(hex.EncodeToString(content))) {
						t.Errorf("given as %s, it is not found in %s in hexadecimal", given, stored)
					}
				}
				if holds(test.other) || holds([]byte(base64.StdEncoding.EncodeToString(test.other))) {
					t.Error("another one is taken for it")
				}
			}
		})
	}
}

func TestFormsRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no PEM":     "key",
		"no key":     "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"no kind":    "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
		"a bad cert": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		if all, err := forms([]byte(text)); err == nil {
			t.Errorf("%s: %d forms", name, len(all))
		}
	}
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return der
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
