// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/istiod-agent/istiod-agent/agent/ca"
)

// The calls, for errors.
const (
	loginCall    = "log in"
	generateCall = "generate a CA key"
	deleteCall   = "remove its copy of the CA key"
	signCall     = "sign the CA certificate"
	rootsCall    = "read the signer's chain"
)

// Generated is a key from Vault and its certificate signing request, PEM.
type Generated struct {
	CSR, Key []byte
	// KeyID identifies the copy that Vault keeps; before 1.11 it keeps none.
	KeyID string
}

// Generate requests a key from Vault. Where the answer is incomplete, the KeyID is returned with the error.
func (s *Session) Generate(ctx context.Context, request ca.Request) (*Generated, error) {
	path := s.client.endpoints.Generate
	answer, err := s.write(ctx, generateCall, path, map[string]any{
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
		return generated, s.bad(generateCall, path, "it has no data.csr")
	case generated.Key == nil:
		return generated, s.bad(generateCall, path, "it has no data.private_key")
	}
	return generated, nil
}

// DeleteKey removes the copy of a generated key that Vault keeps, also when ctx has ended.
func (s *Session) DeleteKey(ctx context.Context, keyID string) error {
	limit := cmp.Or(s.client.config.Timeout, closeTimeout)
	if ctx.Err() != nil {
		limit = closeTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	path := s.client.endpoints.KeyMount + "/key/" + keyID
	answer, err := s.api.Logical().DeleteWithContext(ctx, path)
	return s.check(ctx, deleteCall, "delete", path, answer, err)
}

// Signed is the answer to Sign, PEM.
type Signed struct {
	Certificate, IssuingCA []byte
	// Chain is ca_chain: upwards from the certificate, before Vault 1.11 from its issuer, to the root if the mount has it.
	Chain [][]byte
	// Warnings are Vault's, such as about a shortened TTL.
	Warnings []string
}

// Sign requests a CA certificate with path length 0. Of the CSR (PEM) Vault uses the key alone.
func (s *Session) Sign(ctx context.Context, csr []byte, request ca.Request) (*Signed, error) {
	path := s.client.endpoints.Sign
	parameters := map[string]any{
		"csr":                  string(csr),
		"common_name":          request.Organization,
		"organization":         request.Organization,
		"uri_sans":             strings.Join(request.Hosts, ","),
		"exclude_cn_from_sans": "true",
		"max_path_length":      "0",
		"ttl":                  strconv.Itoa(int(request.TTL/time.Second)) + "s",
		"format":               "pem",
	}
	if len(request.PermittedURIDomains) > 0 { // Vault before 1.19 and OpenBao ignore it
		parameters["permitted_uri_domains"] = strings.Join(request.PermittedURIDomains, ",")
	}
	answer, err := s.write(ctx, signCall, path, parameters)
	if err != nil {
		return nil, err
	}
	signed := &Signed{Certificate: text(answer, "certificate"), IssuingCA: text(answer, "issuing_ca"), Chain: texts(answer, "ca_chain")}
	if signed.Certificate == nil {
		return nil, s.bad(signCall, path, "it has no data.certificate")
	}
	for _, warning := range answer.Warnings {
		if w, ok := quotable(warning); ok && !expected(warning) && len(signed.Warnings) < maxWarnings {
			signed.Warnings = append(signed.Warnings, w)
		}
	}
	return signed, nil
}

// expected reports whether a warning is about what was requested, or about what istiod's certificates do not use.
func expected(warning string) bool {
	return strings.HasPrefix(warning, "Max path length of the signed certificate is zero") ||
		strings.Contains(warning, "authority information access")
}

// chain returns the endpoints of the signer's chain: the issuer's own (Vault builtin/logical/pki/path_fetch_issuers.go), or those
// of the mount's default issuer. They need no login.
func (e Endpoints) chain() []string {
	if e.issuer != "" {
		return []string{e.issuer + "/json"}
	}
	return []string{e.SignMount + "/cert/ca_chain", e.SignMount + "/cert/ca"}
}

// Roots returns the certificates of the signer's chain, one each, PEM.
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
			failed = s.bad(rootsCall, s.client.endpoints.chain()[0], "it has no certificate")
		}
		return nil, failed
	}
	return found, nil
}

// text returns a string of the answer's data with a final newline, nil where there is none. Vault trims its PEM.
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
