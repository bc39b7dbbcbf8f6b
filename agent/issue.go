// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/roots"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// APIServer reads from the API server what issuing needs.
type APIServer interface {
	// Token requests a service account's token for an audience (TokenRequest), valid for ten minutes. Without an audience,
	// it is for the API server.
	Token(ctx context.Context, namespace, serviceAccount, audience string) (string, error)
	// Secret returns the values of a Secret. It returns an error for a Secret that holds a service account's token.
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
	// ConfigMapValue returns the value of a key of a ConfigMap. It returns an error for one of more than limit bytes, and
	// where there is no such key.
	ConfigMapValue(ctx context.Context, namespace, name, key string, limit int) (string, error)
}

// Issuer gets certificates from Vault.
type Issuer struct {
	Identity Identity
	// APIServer is nil where there is none.
	APIServer APIServer
	Tokens    Tokens
	// AllowedServers are the servers that specifications may name, as https://host[:port][/prefix]; any when empty.
	AllowedServers []string
	// Timeout is that of each call to Vault.
	Timeout time.Duration
	// Observe gets the duration of each step: login, generate, sign, roots, verify.
	Observe func(step string, took time.Duration)
}

// knownRoots are the roots to prefer, where a certificate leads to several.
type knownRoots struct {
	published []*x509.Certificate                 // which istiod trusts already
	mesh      func() ([]*x509.Certificate, error) // which workloads trust already
}

// issued is a verified set, nil after an error.
type issued struct {
	set      *cacerts.Set
	warnings []string
	// tidy removes what the CA keeps of the key and revokes the token. The caller calls it in any case, after publishing. It
	// returns what it could not do.
	tidy func(context.Context) []string
}

// issue logs in, gets a key and a certificate, and verifies both.
func (i *Issuer) issue(ctx context.Context, certificate *certificatesv1.IssuedCertificate, known knownRoots) (*issued, error) {
	result := &issued{tidy: func(context.Context) []string { return nil }}
	if err := i.permit(certificate); err != nil {
		return result, err
	}
	trusted, err := roots.Desired(certificate)
	if err != nil {
		return result, err
	}
	if name := certificate.Annotations[certificatesv1.CAFromSecretAnnotation]; name != "" {
		result.set, err = i.adopt(ctx, name, certificate.Spec.Hosts, trusted)
		return result, err
	}
	pinned, err := i.pinned(ctx, certificate.Spec.AgentCA.TrustedRoots)
	if err != nil {
		return result, err
	}
	source := certificate.Spec.AgentCA.Vault
	connection, err := client.New(i.config(certificate))
	if err != nil {
		return result, err
	}
	var session *client.Session
	err = i.step("login", func() error { session, err = connection.Login(ctx); return err })
	if err != nil {
		return result, err
	}
	var keyID string
	result.tidy = func(ctx context.Context) (leftovers []string) {
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

	request := vaultRequest(&certificate.Spec)
	var key, csr []byte
	defer func() { clear(key) }()
	err = i.step("generate", func() error {
		if source.CSRPath == "" {
			key, csr, err = ca.NewKey(request)
			return err
		}
		generated, err := session.Generate(ctx, request)
		if generated != nil {
			key, csr, keyID = generated.Key, generated.CSR, generated.KeyID
		}
		return err
	})
	if err != nil {
		return result, err
	}
	var signed *client.Signed
	err = i.step("sign", func() error { signed, err = session.Sign(ctx, csr, request); return err })
	if err != nil {
		return result, err
	}
	result.warnings = signed.Warnings

	answer := cacerts.Issued{Key: key, Certificate: signed.Certificate, IssuingCA: signed.IssuingCA, Chain: signed.Chain}
	preferred, _ := known.mesh()
	expected := cacerts.Request{
		Hosts: request.Hosts, Organization: request.Organization, Now: time.Now(), Key: request.Key, TTL: request.TTL,
		Trusted: trusted, Published: known.published, Pinned: pinned, Preferred: preferred,
	}
	err = i.step("verify", func() error { result.set, err = cacerts.Verify(answer, expected); return err })
	if refusal, ok := errors.AsType[*cacerts.Refusal](err); !ok || refusal.Reason != cacerts.NoRoot && refusal.Reason != cacerts.RootNotPinned {
		return result, err
	}
	// The answer does not reach the root, or leads to another: the signer's mount may have more.
	var more [][]byte
	if err := i.step("roots", func() error { more, err = session.Roots(ctx); return err }); err != nil {
		return result, err
	}
	answer.Chain = append(answer.Chain, beyond(answer.Chain, more)...)
	err = i.step("verify", func() error { result.set, err = cacerts.Verify(answer, expected); return err })
	return result, err
}

// beyond returns the certificates of a mount that are not in the chain already; both are PEM, one certificate each.
func beyond(chain, known [][]byte) [][]byte {
	same := func(a, b []byte) bool {
		x, _ := pem.Decode(a)
		y, _ := pem.Decode(b)
		return x != nil && y != nil && bytes.Equal(x.Bytes, y.Bytes)
	}
	return slices.DeleteFunc(known, func(certificate []byte) bool {
		return slices.ContainsFunc(chain, func(other []byte) bool { return same(certificate, other) })
	})
}

func (i *Issuer) step(name string, do func() error) error {
	start := time.Now()
	err := do()
	i.Observe(name, time.Since(start))
	return err
}

func vaultRequest(spec *certificatesv1.IssuedCertificateSpec) ca.Request {
	options := spec.CertOptions
	var key cacerts.Key
	switch options.ECKeyCurve {
	case "P-256":
		key = cacerts.Key{Type: "ec", Bits: 256}
	case "P-384":
		key = cacerts.Key{Type: "ec", Bits: 384}
	default:
		key = cacerts.Key{Type: "rsa", Bits: int(*options.RSAKeySizeBytes)}
	}
	return ca.Request{Hosts: spec.Hosts, Organization: options.OrgName, Key: key, TTL: requestedTTL(spec)}
}

func requestedTTL(spec *certificatesv1.IssuedCertificateSpec) time.Duration {
	return time.Duration(*spec.CertOptions.TTLDays) * 24 * time.Hour
}

// adopt returns the CA that istiod has used so far, from the Secret that a specification names.
func (i *Issuer) adopt(ctx context.Context, name string, hosts []string, trusted []*x509.Certificate) (*cacerts.Set, error) {
	if i.APIServer == nil {
		return nil, fmt.Errorf("metadata.annotations[%s]: reading the CA's Secret needs an API server; run in a cluster or set --kubeconfig", certificatesv1.CAFromSecretAnnotation)
	}
	secret, err := i.APIServer.Secret(ctx, i.Identity.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("adopting istiod's CA: %w", err)
	}
	for _, key := range []string{istio.CACertFile, istio.CAKeyFile} {
		if len(secret[key]) == 0 {
			return nil, fmt.Errorf("adopting istiod's CA: Secret %s/%s has no key %q", i.Identity.Namespace, name, key)
		}
	}
	if trusted == nil {
		return nil, fmt.Errorf("adopting istiod's CA: metadata.annotations[%s] is missing; expected the roots to trust, with that CA's own", certificatesv1.TrustedRootsAnnotation)
	}
	return cacerts.Adopt(secret[istio.CAKeyFile], secret[istio.CACertFile], secret[istio.CertChainFile], trusted, hosts, time.Now())
}
