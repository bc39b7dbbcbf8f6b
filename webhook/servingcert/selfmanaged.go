// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"k8s.io/utils/clock"
)

// settle is how long a CA must have been in the caBundle before a certificate
// that it signed is served: API servers learn of a changed webhook
// configuration by watch, as we do, but not at the same instant.
const settle = 5 * time.Second

// SelfManaged issues its own certificates from a CA kept in a Secret, and goes
// on serving the one it has until the caBundle trusts the next one.
type SelfManaged struct {
	issue servertls.CertificateSource
	clock clock.PassiveClock

	mu sync.Mutex
	// next is the newest certificate issued; serving the one in use.
	next, serving *tls.Certificate
	// nextTrusted and servingTrusted hold since when the caBundle has trusted
	// them; zero when it does not.
	nextTrusted, servingTrusted time.Time
	bundle                      bundle
}

// Start implements Source.
func (s *SelfManaged) Start(ctx context.Context) error { return s.issue.Start(ctx) }

// NeedLeaderElection implements Source.
func (*SelfManaged) NeedLeaderElection() bool { return false }

// GetCertificate implements Source.
func (s *SelfManaged) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	issued, err := s.issue.GetCertificate(hello)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if issued != s.next {
		s.next = issued
		s.nextTrusted = s.bundle.trustedSince(issued.Leaf)
	}
	if s.serving == s.next {
		return s.serving, nil
	}

	now := s.clock.Now()
	settled := !s.nextTrusted.IsZero() && now.Sub(s.nextTrusted) >= settle
	if s.serving == nil || settled || now.After(s.serving.Leaf.NotAfter) {
		s.serving, s.servingTrusted = s.next, s.nextTrusted
	}
	return s.serving, nil
}

// Ready implements Source: the certificate that is served is trusted by the
// caBundle of the webhook configuration, as far as there is one.
func (s *SelfManaged) Ready() error {
	if _, err := s.GetCertificate(nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bundle.observed && s.servingTrusted.IsZero() {
		return errors.New("the webhook configuration's caBundle does not yet hold the CA of the serving certificate")
	}
	return nil
}

// trust takes note of what the webhook configuration's caBundle holds.
func (s *SelfManaged) trust(cas []*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle.observe(cas, s.clock.Now())
	if s.next != nil {
		s.nextTrusted = s.bundle.trustedSince(s.next.Leaf)
	}
	if s.serving != nil {
		s.servingTrusted = s.bundle.trustedSince(s.serving.Leaf)
	}
}

// forget takes note that there is no webhook configuration.
func (s *SelfManaged) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle = bundle{}
}

// bundle is the caBundle as last observed.
type bundle struct {
	observed bool
	cas      []trustedCA
}

type trustedCA struct {
	*x509.Certificate
	since time.Time
}

func (b *bundle) observe(cas []*x509.Certificate, now time.Time) {
	before := b.cas
	b.observed, b.cas = true, nil
	for _, ca := range cas {
		since := now
		for _, known := range before {
			if known.Equal(ca) {
				since = known.since
			}
		}
		b.cas = append(b.cas, trustedCA{ca, since})
	}
}

// trustedSince is when the CA of this leaf came into the bundle, zero when it
// is not there.
func (b *bundle) trustedSince(leaf *x509.Certificate) time.Time {
	for _, ca := range b.cas {
		if leaf.CheckSignatureFrom(ca.Certificate) == nil {
			return ca.since
		}
	}
	return time.Time{}
}

// duration parses what validation has parsed before.
func duration(text string) time.Duration {
	d, _ := time.ParseDuration(text)
	return d
}
