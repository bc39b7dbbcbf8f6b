// SPDX-License-Identifier: Apache-2.0

// Package vault obtains istiod's CA certificate from Vault's PKI secrets engine: it logs in as a specification requests and
// istiod's operator permits, gets a key signed, and leaves nothing behind. Package client below calls Vault's API.
package vault

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Reasons of what Vault answers besides a certificate.
//
//reasons:page vault
const (
	// vaultWarning: A warning from Vault, for example about a TTL that the mount shortens. The CA is published.
	//
	// Remedy: follow the message.
	vaultWarning = "VaultWarning"
)

// APIServer provides from the API server what a login needs.
type APIServer interface {
	// Token requests a service account's token for an audience (TokenRequest), valid for ten minutes. Without an audience,
	// it is for the API server.
	Token(ctx context.Context, namespace, serviceAccount, audience string) (string, error)
	// Secret returns the values of a Secret. It returns an error for a Secret that holds a service account's token.
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
}

// Options are the same for all specifications: istiod's identity, and what its operator decides.
type Options struct {
	// Namespace and ServiceAccount are istiod's.
	Namespace, ServiceAccount string
	// APIServer is nil where there is none.
	APIServer APIServer
	Tokens    Tokens
	// AllowedServers are the servers that specifications may name, as https://host[:port][/prefix]; any when empty.
	AllowedServers []string
	// Timeout is that of each call to Vault.
	Timeout time.Duration
	// Unwrapped keeps the secret id of the last wrapping token from one specification to the next. It is a secret.
	Unwrapped *client.Unwrapped
	// Observe gets the duration of each step: login, generate, sign.
	Observe func(step string, took time.Duration)
}

// source is one specification's Vault.
type source struct {
	Options

	spec *certificatesv1.VaultCA
}

// New returns the source of a valid specification with its defaults, a ca.TokenUser if that names a token. The errors are about
// what it asks for and istiod's operator does not permit.
func New(options Options, spec *certificatesv1.VaultCA) (ca.Source, field.ErrorList) {
	if errs := options.permit(spec); len(errs) > 0 {
		return nil, errs
	}
	s := &source{options, spec}
	if spec.TokenSecretRef != nil {
		return &tokenSource{source: s}, nil
	}
	return s, nil
}

// String implements ca.Source.
func (s *source) String() string { return "Vault at " + s.spec.Server }

// Issue implements ca.Source: it logs in, gets a key and has it signed.
func (s *source) Issue(ctx context.Context, request ca.Request) (answer ca.Answer, err error) {
	config, err := s.config(ctx)
	if err != nil {
		return answer, err
	}
	connection, err := client.New(config)
	if err != nil {
		return answer, err
	}
	var session *client.Session
	err = s.step("login", func() error { session, err = connection.Login(ctx); return err })
	if err != nil {
		return answer, err
	}
	var keyID string
	answer.More = session.Roots
	answer.Tidy = func(ctx context.Context) (leftovers []string) {
		if keyID != "" {
			if err := session.DeleteKey(ctx, keyID); err != nil {
				leftovers = append(leftovers, fmt.Sprintf("Vault keeps a copy of the CA key: %v", err))
			}
		}
		if err := session.Close(ctx); err != nil {
			leftovers = append(leftovers, fmt.Sprintf("the login token was not revoked and is valid until it expires: %v", err))
		}
		return leftovers
	}
	var csr []byte
	err = s.step("generate", func() error {
		if s.spec.CSRPath == "" {
			answer.Issued.Key, csr, err = ca.NewKey(request)
			return err
		}
		generated, err := session.Generate(ctx, request)
		if generated != nil {
			answer.Issued.Key, csr, keyID = generated.Key, generated.CSR, generated.KeyID
		}
		return err
	})
	if err != nil {
		return answer, err
	}
	var signed *client.Signed
	err = s.step("sign", func() error { signed, err = session.Sign(ctx, csr, request); return err })
	if err != nil {
		return answer, err
	}
	answer.Issued = cacerts.Issued{Key: answer.Issued.Key, Certificate: signed.Certificate, IssuingCA: signed.IssuingCA, Chain: signed.Chain}
	for _, message := range signed.Warnings {
		answer.Warnings = append(answer.Warnings, ca.Warning{Reason: vaultWarning, Message: "Vault warns: " + message})
	}
	return answer, nil
}

func (s *source) step(name string, do func() error) error {
	start := time.Now()
	err := do()
	s.Observe(name, time.Since(start))
	return err
}
