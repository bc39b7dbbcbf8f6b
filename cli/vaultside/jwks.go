// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// maxKeys bounds the keys of an API server: one or two, except while they change.
const maxKeys = 20

// PublicKeys returns the keys of a JSON Web Key Set (RFC 7517, RFC 7518 section 6), such as /openid/v1/jwks of an API server, as
// PEM. It skips keys that are not for signatures.
func PublicKeys(jwks []byte) ([]string, error) {
	var set struct {
		Keys []jsonWebKey `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, errors.New("expected a JSON Web Key Set, with the member keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("it contains %d keys; expected at most %d", len(set.Keys), maxKeys)
	}
	var keys []string
	for i, key := range set.Keys {
		if key.Use != "" && key.Use != "sig" {
			continue
		}
		public, err := key.public()
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: it is no valid key", i)
		}
		keys = append(keys, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	}
	if len(keys) == 0 {
		return nil, errors.New("it contains no key for signatures")
	}
	return keys, nil
}

type jsonWebKey struct {
	Type  string `json:"kty"`
	Use   string `json:"use"`
	Curve string `json:"crv"`
	N     string `json:"n"`
	E     string `json:"e"`
	X     string `json:"x"`
	Y     string `json:"y"`
}

// maxKeyPart is of an RSA key of 16384 bits.
const maxKeyPart = 2048

func (k jsonWebKey) public() (any, error) {
	part := func(text string) ([]byte, error) {
		value, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil || len(value) == 0 || len(value) > maxKeyPart {
			return nil, errors.New("a part of it is not base64url, or too long")
		}
		return value, nil
	}
	switch k.Type {
	case "RSA":
		n, err := part(k.N)
		if err != nil {
			return nil, err
		}
		e, err := part(k.E)
		if err != nil || len(e) > 4 {
			return nil, errors.New("its exponent is not valid")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Curve]
		if curve == nil {
			return nil, fmt.Errorf("its curve %.20q is not supported", k.Curve)
		}
		x, err := part(k.X)
		if err != nil {
			return nil, err
		}
		y, err := part(k.Y)
		if err != nil {
			return nil, err
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(x) > size || len(y) > size {
			return nil, errors.New("its point is not on its curve")
		}
		point := make([]byte, 1+2*size) // SEC 1, section 2.3.3
		point[0] = 4
		copy(point[1+size-len(x):], x)
		copy(point[1+2*size-len(y):], y)
		public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
		if err != nil {
			return nil, errors.New("its point is not on its curve")
		}
		return public, nil
	}
	return nil, fmt.Errorf("its type %.20q is not supported; expected RSA or EC", k.Type)
}
