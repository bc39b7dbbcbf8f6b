// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"
)

// replica is one that serves, and what happens around it.
type replica struct {
	*SelfManaged
	clock *testingclock.FakePassiveClock
	issuer
}

// issuer stands in for cert-manager's source.
type issuer struct{ newest *tls.Certificate }

func (*issuer) Start(context.Context) error { return nil }
func (*issuer) Healthy() bool               { return true }
func (i *issuer) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if i.newest == nil {
		return nil, errors.New("no certificate yet")
	}
	return i.newest, nil
}

func newReplica() *replica {
	r := &replica{clock: testingclock.NewFakePassiveClock(start)}
	r.SelfManaged = &SelfManaged{issue: &r.issuer, clock: r.clock}
	return r
}

func (r *replica) wait(d time.Duration) { r.clock.SetTime(r.clock.Now().Add(d)) }

func (r *replica) trustOnly(cas ...testCA) {
	var trusted []*x509.Certificate
	for _, ca := range cas {
		trusted = append(trusted, ca.Certificate)
	}
	r.observeBundle(trusted)
}

func (r *replica) wantServing(t *testing.T, what string, want *tls.Certificate) {
	t.Helper()
	if got, err := r.SelfManaged.GetCertificate(nil); err != nil || got != want {
		t.Errorf("%s: serves another certificate (%v)", what, err)
	}
}

func (r *replica) wantReady(t *testing.T, what string, want bool) {
	t.Helper()
	if err := r.Ready(); (err == nil) != want {
		t.Errorf("%s: ready says %v", what, err)
	}
}

func TestFirstCertificate(t *testing.T) {
	t.Parallel()
	r, ca := newReplica(), newCA(t, "a", start.Add(-time.Hour), start.Add(year))
	if _, err := r.SelfManaged.GetCertificate(nil); err == nil {
		t.Error("serves before there is a certificate")
	}
	r.wantReady(t, "before there is a certificate", false)

	r.newest = ca.leaf(t, start.Add(time.Hour))
	r.wantServing(t, "the caBundle is not known", r.newest)
	r.wantReady(t, "the webhook configuration has not been looked at", false)
	r.observeAbsence()
	r.wantReady(t, "there is no webhook configuration", true)
	r.trustOnly()
	r.wantServing(t, "nobody trusts it yet", r.newest)
	r.wantReady(t, "nobody trusts it yet", false)
	r.observeAbsence()
	r.wantReady(t, "the webhook configuration is gone", true)
	r.trustOnly(ca)
	r.wantReady(t, "it has only just come to be trusted", false)
	r.wait(propagationDelay)
	r.wantReady(t, "it is trusted", true)
}

// A replica that starts while all is well must not wait; one that starts while
// the CA changes must.
func TestReadyAfterStart(t *testing.T) {
	t.Parallel()
	old, fresh := newCA(t, "old", start.Add(-time.Hour), start.Add(year)), newCA(t, "fresh", start, start.Add(year))
	for name, test := range map[string]struct {
		ca   testCA
		want bool
	}{
		"under a CA that has long been there": {old, true},
		"under a CA that has just been made":  {fresh, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newReplica()
			r.newest = test.ca.leaf(t, start.Add(time.Hour))
			r.trustOnly(old, fresh)
			r.wantReady(t, "at once", test.want)
			r.wait(propagationDelay)
			r.wantReady(t, "later", true)
		})
	}
}

// API servers take no leaf of a CA whose time has not come.
func TestReadyWithFutureCA(t *testing.T) {
	t.Parallel()
	r, ca := newReplica(), newCA(t, "future", start.Add(time.Hour), start.Add(year))
	r.newest = ca.leaf(t, start.Add(year))
	r.trustOnly(ca)
	r.wait(propagationDelay)
	r.wantReady(t, "before its time", false)
	r.wait(time.Hour)
	r.wantReady(t, "in its time", true)
}

// Whoever makes a certificate dates it by its own clock.
func TestFutureCertificate(t *testing.T) {
	t.Parallel()
	const ahead = 10 * time.Minute
	now := newCA(t, "now", start.Add(-time.Hour), start.Add(year))
	future := newCA(t, "future", start.Add(ahead), start.Add(year))
	for name, next := range map[string]*tls.Certificate{
		"a leaf of a clock that is fast":           now.leafFrom(t, start.Add(ahead), start.Add(year)),
		"the leaf of a CA of a clock that is fast": future.leaf(t, start.Add(year)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, first := newReplica(), now.leaf(t, start.Add(time.Hour))
			r.newest = first
			r.trustOnly(now, future)
			r.wantServing(t, "at first", first)
			r.newest = next
			r.wait(ahead + maxClockSkew - time.Nanosecond)
			r.wantServing(t, "other clocks may not have got there", first)
			r.wait(time.Nanosecond)
			r.wantServing(t, "every clock has got there", next)
		})
	}
}

func TestCARotation(t *testing.T) {
	t.Parallel()
	r := newReplica()
	a, b := newCA(t, "a", start.Add(-time.Hour), start.Add(year)), newCA(t, "b", start.Add(-time.Hour), start.Add(year))
	first, second := a.leaf(t, start.Add(time.Hour)), b.leaf(t, start.Add(2*time.Hour))
	r.newest = first
	r.trustOnly(a)
	r.wantServing(t, "at first", first)

	r.newest = second
	r.wait(10 * propagationDelay)
	r.wantServing(t, "the new CA is not in the bundle", first)
	r.wantReady(t, "what is served is trusted", true)

	r.trustOnly(b, a)
	r.wantServing(t, "the new CA has just come into the bundle", first)
	r.wait(propagationDelay - time.Nanosecond)
	r.trustOnly(b, a) // seen again, not anew
	r.wantServing(t, "it has not been there long enough", first)
	r.wait(time.Nanosecond)
	r.wantServing(t, "it has been there long enough", second)
	r.wantReady(t, "the new one is served", true)

	r.trustOnly(b)
	r.wantReady(t, "the old CA is gone", true)
	r.trustOnly(a)
	r.wantServing(t, "somebody took the new CA out of the bundle", second)
	r.wantReady(t, "somebody took the new CA out of the bundle", false)
}

func TestReturningCA(t *testing.T) {
	t.Parallel()
	r := newReplica()
	a, b := newCA(t, "a", start.Add(-time.Hour), start.Add(year)), newCA(t, "b", start.Add(-time.Hour), start.Add(year))
	first, second := a.leaf(t, start.Add(time.Hour)), b.leaf(t, start.Add(time.Hour))
	r.newest = first
	r.trustOnly(a)
	r.wantServing(t, "at first", first)
	r.newest = second
	r.trustOnly(a, b)
	r.wait(propagationDelay / 2)
	r.trustOnly(a)
	r.wait(propagationDelay)
	r.wantServing(t, "the new CA was in the bundle for a moment", first)
	r.trustOnly(a, b)
	r.wait(propagationDelay / 2)
	r.wantServing(t, "it has not been back for long", first)
	r.wait(propagationDelay / 2)
	r.wantServing(t, "it has been back long enough", second)
}

func TestLeafRenewal(t *testing.T) {
	t.Parallel()
	r, ca := newReplica(), newCA(t, "a", start.Add(-time.Hour), start.Add(year))
	r.newest = ca.leaf(t, start.Add(time.Hour))
	r.trustOnly(ca)
	r.wantServing(t, "at first", r.newest)
	r.wait(propagationDelay)
	r.newest = ca.leaf(t, start.Add(2*time.Hour))
	r.wantServing(t, "renewed", r.newest)
}

func TestNewestPendingLeaf(t *testing.T) {
	t.Parallel()
	r := newReplica()
	a, b, c := newCA(t, "a", start.Add(-time.Hour), start.Add(year)), newCA(t, "b", start.Add(-time.Hour), start.Add(year)), newCA(t, "c", start.Add(-time.Hour), start.Add(year))
	first := a.leaf(t, start.Add(time.Hour))
	r.newest = first
	r.trustOnly(a)
	r.wantServing(t, "at first", first)
	r.trustOnly(a, b)
	r.newest = b.leaf(t, start.Add(time.Hour))
	r.wantServing(t, "b has just come", first)
	r.newest = c.leaf(t, start.Add(time.Hour))
	r.wait(10 * propagationDelay)
	r.wantServing(t, "b is trusted, and c has taken its place", first)
	r.trustOnly(a, b, c)
	r.wait(propagationDelay)
	r.wantServing(t, "c is trusted", r.newest)
}

func TestExpiredLeaf(t *testing.T) {
	t.Parallel()
	r := newReplica()
	a, b := newCA(t, "a", start.Add(-time.Hour), start.Add(year)), newCA(t, "b", start.Add(-time.Hour), start.Add(year))
	first := a.leaf(t, start.Add(time.Hour))
	r.newest = first
	r.trustOnly(a)
	r.wantServing(t, "at first", first)
	r.newest = b.leaf(t, start.Add(2*time.Hour))
	r.wait(time.Hour)
	r.wantServing(t, "in its last instant", first)
	r.wait(time.Second)
	r.wantServing(t, "it has expired", r.newest)
	r.wantReady(t, "nobody trusts the new one yet", false)
}

func TestNeedLeaderElection(t *testing.T) {
	t.Parallel()
	if newReplica().NeedLeaderElection() || (&fileSource{}).NeedLeaderElection() {
		t.Error("a source waits to be elected")
	}
}
