// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// The calls, as they are named in errors.
const (
	loginCall    = "log in"
	generateCall = "make a CA key"
	deleteCall   = "remove its copy of the CA key"
	signCall     = "sign the CA certificate"
	rootsCall    = "read the signer's chain"
)

// Request is what is asked of a certificate.
type Request struct {
	// Hosts are the certificate's URI names, and its only ones.
	Hosts []string
	// Organization is the subject's organization and its common name.
	Organization string
	// TTL is how long it shall be valid; Vault may give less.
	TTL time.Duration
	Key Key
}

// Key is a kind of key: "rsa" or "ec", and its bits.
type Key struct {
	Type string
	Bits int
}

// Generated is a key that Vault made, PEM, and a request to sign its certificate.
type Generated struct {
	CSR, Key []byte
	// KeyID is by which Vault knows the copy that it keeps; Vault before 1.11 keeps none.
	KeyID string
}

// Generate has Vault make a key and hand it out. Where the answer lacks something and Vault keeps a key all the same,
// the error comes with its KeyID.
func (s *Session) Generate(ctx context.Context, request Request) (*Generated, error) {
	path := s.client.endpoints.Generate
	answer, err := s.write(ctx, generateCall, path, map[string]string{
		"common_name":          request.Organization,
		"organization":         request.Organization,
		"uri_sans":             strings.Join(request.Hosts, ","),
		"exclude_cn_from_sans": "true",
		"key_type":             request.Key.Type,
		"key_bits":             strconv.Itoa(request.Key.Bits),
		"format":               "pem",
		"private_key_format":   "pkcs8",
	})
	if err != nil {
		return nil, err
	}
	generated := &Generated{CSR: text(answer, "csr"), Key: text(answer, "private_key"), KeyID: string(bytes.TrimSpace(text(answer, "key_id")))}
	switch {
	case generated.CSR == nil:
		return generated, s.bad(generateCall, path, "it holds no data.csr")
	case generated.Key == nil:
		return generated, s.bad(generateCall, path, "it holds no data.private_key")
	}
	return generated, nil
}

// DeleteKey removes the copy of a generated key that Vault keeps.
func (s *Session) DeleteKey(ctx context.Context, keyID string) error {
	path := s.client.endpoints.KeyMount + "/key/" + keyID
	s.used++
	_, err := s.api.Logical().DeleteWithContext(ctx, path)
	if err = s.redirected(err); err != nil {
		return s.explain(ctx, deleteCall, "delete", path, err)
	}
	return nil
}

// Signed is a signed certificate as Vault answers it, PEM.
type Signed struct {
	Certificate, IssuingCA []byte
	// Chain is ca_chain: since Vault 1.11 the certificate itself, its issuer and so on upwards, before that
	// without the certificate; up to the root where the mount knows it.
	Chain [][]byte
	// Warnings say, for instance, that the TTL is less than was asked.
	Warnings []string
}

// Sign has Vault sign a CA certificate of path length 0. Of the request (PEM) Vault takes the key alone.
func (s *Session) Sign(ctx context.Context, csr []byte, request Request) (*Signed, error) {
	path := s.client.endpoints.Sign
	answer, err := s.write(ctx, signCall, path, map[string]string{
		"csr":                  string(csr),
		"common_name":          request.Organization,
		"organization":         request.Organization,
		"uri_sans":             strings.Join(request.Hosts, ","),
		"exclude_cn_from_sans": "true",
		"max_path_length":      "0",
		"ttl":                  strconv.Itoa(int(request.TTL/time.Second)) + "s",
		"format":               "pem",
	})
	if err != nil {
		return nil, err
	}
	signed := &Signed{Certificate: text(answer, "certificate"), IssuingCA: text(answer, "issuing_ca"), Chain: texts(answer, "ca_chain")}
	if signed.Certificate == nil {
		return nil, s.bad(signCall, path, "it holds no data.certificate")
	}
	for _, warning := range answer.Warnings {
		if w, ok := quotable(warning); ok && !expected(warning) && len(signed.Warnings) < maxWarnings {
			signed.Warnings = append(signed.Warnings, w)
		}
	}
	return signed, nil
}

// expected are the warnings of what was asked for, and of what istiod's certificates have no use for.
func expected(warning string) bool {
	return strings.HasPrefix(warning, "Max path length of the signed certificate is zero") ||
		strings.Contains(warning, "authority information access")
}

// chain are the endpoints that tell what is above the signer: the issuer's own (Vault builtin/logical/pki/path_fetch_issuers.go),
// or those of the mount's default issuer. Nobody needs a right to them.
func (e Endpoints) chain() []string {
	if e.issuer != "" {
		return []string{e.issuer + "/json"}
	}
	return []string{e.SignMount + "/cert/ca_chain", e.SignMount + "/cert/ca"}
}

// Roots gives what the signer's mount knows above the signer, one certificate each, PEM.
func (s *Session) Roots(ctx context.Context) ([][]byte, error) {
	var found [][]byte
	var failed error
	for _, path := range s.client.endpoints.chain() {
		answer, err := s.read(ctx, rootsCall, path)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		rest := append(text(answer, "certificate"), bytes.Join(texts(answer, "ca_chain"), nil)...)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			one := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
			if block.Type == "CERTIFICATE" && !slices.ContainsFunc(found, func(other []byte) bool { return bytes.Equal(one, other) }) {
				found = append(found, one)
			}
		}
	}
	if len(found) == 0 {
		if failed == nil {
			failed = s.bad(rootsCall, s.client.endpoints.chain()[0], "it holds no certificate")
		}
		return nil, failed
	}
	return found, nil
}

// text gives a string of the answer's data as a line-terminated text, nil when there is none. Vault trims its PEM.
func text(answer *api.Secret, key string) []byte {
	value, _ := answer.Data[key].(string)
	return line(value)
}

func texts(answer *api.Secret, key string) (found [][]byte) {
	values, _ := answer.Data[key].([]any)
	for _, value := range values {
		if value, ok := value.(string); ok && value != "" {
			found = append(found, line(value))
		}
	}
	return found
}

func line(value string) []byte {
	if value = strings.TrimSpace(value); value == "" {
		return nil
	}
	return []byte(value + "\n")
}
