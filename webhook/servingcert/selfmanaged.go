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

// propagationDelay is how long a CA must be in the caBundle before a certificate that it signed is served: each API server
// learns of a changed webhook configuration by its own watch.
const propagationDelay = 5 * time.Second

// maxClockSkew is the assumed difference of clocks: a certificate is valid from its creation, by the clock of its replica.
const maxClockSkew = time.Minute

// SelfManaged issues its own certificates from a CA in a Secret. It serves the previous certificate until every API server
// can be expected to trust the next one.
type SelfManaged struct {
	issue servertls.CertificateSource
	clock clock.PassiveClock

	mu sync.Mutex
	// next is the newest certificate, serving the one in use.
	next, serving *tls.Certificate
	// nextTrustedFrom is when next may replace a valid certificate; servingTrustedSince is when the caBundle got the CA of the
	// one in use. Zero if the caBundle does not contain the CA.
	nextTrustedFrom, servingTrustedSince time.Time
	bundle                               bundle
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
		s.nextTrustedFrom = s.bundle.trustedFrom(issued.Leaf)
	}
	if s.serving == s.next {
		return s.serving, nil
	}

	now := s.clock.Now()
	trusted := !s.nextTrustedFrom.IsZero() && !now.Before(s.nextTrustedFrom)
	if s.serving == nil || trusted || now.After(s.serving.Leaf.NotAfter) {
		s.serving = s.next
		s.servingTrustedSince = s.bundle.trustedSince(s.serving.Leaf)
	}
	return s.serving, nil
}

// Ready implements Source: the caBundle of the webhook configuration, if there is one, has contained the CA of the served
// certificate for long enough.
func (s *SelfManaged) Ready() error {
	if _, err := s.GetCertificate(nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.bundle.observed:
		return errors.New("the webhook configuration has not been read yet")
	case s.bundle.absent:
		return nil
	case s.servingTrustedSince.IsZero():
		return errors.New("the webhook configuration's caBundle does not yet contain the CA of the serving certificate")
	case s.bundle.signer(s.serving.Leaf).NotBefore.After(s.clock.Now()):
		return errors.New("the CA of the serving certificate is not valid yet: the clock of this node, or of the node that created the CA, is wrong")
	case s.clock.Since(s.servingTrustedSince) < propagationDelay:
		return errors.New("the webhook configuration's caBundle got the CA of the serving certificate only seconds ago")
	}
	return nil
}

// observeBundle records the CAs in the webhook configuration's caBundle.
func (s *SelfManaged) observeBundle(cas []*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle.observe(cas, s.clock.Now())
	if s.next != nil {
		s.nextTrustedFrom = s.bundle.trustedFrom(s.next.Leaf)
	}
	if s.serving != nil {
		s.servingTrustedSince = s.bundle.trustedSince(s.serving.Leaf)
	}
}

// observeAbsence records that there is no webhook configuration.
func (s *SelfManaged) observeAbsence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle = bundle{observed: true, absent: true}
}

// bundle is the caBundle as last observed.
type bundle struct {
	observed bool // it has been read
	absent   bool // there is no webhook configuration
	cas      []trustedCA
}

type trustedCA struct {
	*x509.Certificate
	since time.Time
}

// observe records since when each CA has been in the bundle. A CA that the first observation finds has been there about since
// its creation: replicas add a CA at once.
func (b *bundle) observe(cas []*x509.Certificate, now time.Time) {
	before := *b
	*b = bundle{observed: true}
	for _, ca := range cas {
		since := now
		if !before.observed && ca.NotBefore.Before(now) {
			since = ca.NotBefore
		}
		for _, observed := range before.cas {
			if observed.Equal(ca) {
				since = observed.since
			}
		}
		b.cas = append(b.cas, trustedCA{ca, since})
	}
}

// trustedSince is when the leaf's CA was added to the bundle, zero if it is not there.
func (b *bundle) trustedSince(leaf *x509.Certificate) time.Time {
	if ca := b.signer(leaf); ca != nil {
		return ca.since
	}
	return time.Time{}
}

// trustedFrom is when every API server can be expected to trust the leaf, by its own copy of the bundle and its own clock;
// zero if the bundle does not contain the CA.
func (b *bundle) trustedFrom(leaf *x509.Certificate) time.Time {
	ca := b.signer(leaf)
	if ca == nil {
		return time.Time{}
	}
	// A third of its life is left when a leaf is renewed: time enough for both.
	skew := min(maxClockSkew, leaf.NotAfter.Sub(leaf.NotBefore)/10)
	from := ca.since.Add(propagationDelay)
	for _, notBefore := range []time.Time{leaf.NotBefore, ca.NotBefore} {
		if valid := notBefore.Add(skew); valid.After(from) {
			from = valid
		}
	}
	return from
}

func (b *bundle) signer(leaf *x509.Certificate) *trustedCA {
	for i := range b.cas {
		if leaf.CheckSignatureFrom(b.cas[i].Certificate) == nil {
			return &b.cas[i]
		}
	}
	return nil
}

// duration parses a validated duration.
func duration(text string) time.Duration {
	d, _ := time.ParseDuration(text)
	return d
}
