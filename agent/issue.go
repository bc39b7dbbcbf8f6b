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
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// knownRoots are the roots to prefer, where a certificate leads to several.
type knownRoots struct {
	published []*x509.Certificate                 // which istiod trusts already
	mesh      func() ([]*x509.Certificate, error) // which workloads trust already
}

// obtain gets a certificate from a source and verifies it. In any case, the answer's warnings and its Tidy are for the caller.
func (a *Agent) obtain(ctx context.Context, source ca.Source, adopted bool, known knownRoots) (set *cacerts.Set, answer ca.Answer, err error) {
	request := requestOf(&a.desired.Spec)
	defer func() { clear(answer.Issued.Key) }()
	if adopted {
		if answer, err = source.Issue(ctx, request); err == nil {
			set, err = a.adopt(answer.Issued)
		}
		return set, answer, err
	}
	pinned, err := a.pinned(ctx, a.desired.Spec.AgentCA.TrustedRoots)
	if err != nil {
		return nil, answer, err
	}
	if answer, err = source.Issue(ctx, request); err != nil {
		return nil, answer, err
	}
	preferred, _ := known.mesh()
	expected := cacerts.Request{
		Hosts: request.Hosts, Organization: request.Organization, Now: time.Now(), Key: request.Key, TTL: request.TTL,
		Trusted: a.roots.Desired, Published: known.published, Pinned: pinned, Preferred: preferred,
		AnyPathLength: answer.AnyPathLength, PermittedURIDomains: request.PermittedURIDomains,
	}
	verify := func() error { set, err = cacerts.Verify(answer.Issued, expected); return err }
	err = a.step("verify", verify)
	if refusal, ok := errors.AsType[*cacerts.Refusal](err); !ok || answer.More == nil || refusal.Reason != cacerts.NoRoot && refusal.Reason != cacerts.RootNotPinned {
		return set, answer, err
	}
	// The answer does not reach the root, or leads to another: the CA may have more.
	var more [][]byte
	if err := a.step("roots", func() error { more, err = answer.More(ctx); return err }); err != nil {
		return nil, answer, err
	}
	answer.Issued.Chain = append(answer.Issued.Chain, beyond(answer.Issued.Chain, more)...)
	err = a.step("verify", verify)
	return set, answer, err
}

// adopt verifies the CA that istiod has used so far.
func (a *Agent) adopt(former cacerts.Issued) (*cacerts.Set, error) {
	if a.roots.Desired == nil {
		return nil, fmt.Errorf("adopting istiod's CA: metadata.annotations[%s] is missing; expected the roots to trust, with that CA's own", certificatesv1.TrustedRootsAnnotation)
	}
	return cacerts.Adopt(former, a.roots.Desired, a.desired.Spec.Hosts, time.Now())
}

// beyond returns the certificates that are not in the chain already; both are PEM, one certificate each.
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

func (a *Agent) step(name string, do func() error) error {
	start := time.Now()
	err := do()
	a.Metrics.Observe(name, time.Since(start))
	return err
}

// requestOf returns what a specification asks of a CA.
func requestOf(spec *certificatesv1.IssuedCertificateSpec) ca.Request {
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
	return ca.Request{Hosts: spec.Hosts, Organization: options.OrgName, Key: key, TTL: requestedTTL(spec), PermittedURIDomains: options.PermittedURIDomains}
}

func requestedTTL(spec *certificatesv1.IssuedCertificateSpec) time.Duration {
	return time.Duration(*spec.CertOptions.TTLDays) * 24 * time.Hour
}
