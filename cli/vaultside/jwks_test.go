// SPDX-License-Identifier: Apache-2.0

package vaultside_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli/vaultside"
)

// Every key of a set is the key that it was made of.
func TestPublicKeys(t *testing.T) {
	t.Parallel()
	encode := base64.RawURLEncoding.EncodeToString
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := []map[string]string{
		{"kty": "RSA", "use": "sig", "n": encode(small.N.Bytes()), "e": "AQAB"},
		{"kty": "RSA", "use": "enc", "n": "AA", "e": "AQAB"},
	}
	public := []any{&small.PublicKey}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := (len(point) + 1) / 2
		keys = append(keys, map[string]string{"kty": "EC", "crv": name, "x": encode(point[1:half]), "y": encode(point[half:])})
		public = append(public, &key.PublicKey)
	}
	set, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	got, err := vaultside.PublicKeys(set)
	if err != nil || len(got) != len(public) {
		t.Fatalf("%d keys: %v", len(got), err)
	}
	for i, key := range public {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if want := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); got[i] != want {
			t.Errorf("key %d is another one", i)
		}
	}
}

func TestPublicKeysThatAreNone(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("A", 5000)
	for text, want := range map[string]string{
		"":              "expected a JSON Web Key Set",
		"-----BEGIN":    "expected a JSON Web Key Set",
		`{"keys":[]}`:   "no key for signatures",
		`{"keys":[{}]}`: `keys[0]: its type "" is not supported`,
		`{"keys":[{"kty":"RSA","n":"","e":"AQAB"}]}`:                                            "not base64url",
		`{"keys":[{"kty":"RSA","n":"` + long + `","e":"AQAB"}]}`:                                "too long",
		`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQABAQAB"}]}`:                                    "its exponent is not valid",
		`{"keys":[{"kty":"EC","crv":"P-224","x":"AA","y":"AA"}]}`:                               `its curve "P-224" is not supported`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}]}`:                               "not on its curve",
		`{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`:                                               `its type "oct" is not supported`,
		fmt.Sprintf(`{"keys":[%s{}]}`, strings.Repeat("{},", 20)):                               "it contains 21 keys",
		`{"keys":[{"kty":"EC","crv":"P-256","x":"` + strings.Repeat("A", 100) + `","y":"AQ"}]}`: "not on its curve",
	} {
		if keys, err := vaultside.PublicKeys([]byte(text)); err == nil || len(keys) > 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: want %q, got %v", text, want, err)
		}
	}
}
