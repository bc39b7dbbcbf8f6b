// SPDX-License-Identifier: Apache-2.0

// Package machine decides what the agent does next, and when. It is pure: its State is a value, time is an argument, and it
// reads no clock, file or network. Next returns a State's next step; After returns the State that an event leads to, and
// nothing else changes a State.
package machine

import (
	"time"
)

// Config stays the same while an agent runs.
type Config struct {
	// Seed differs between the replicas of all clusters.
	Seed string
	// WorkloadTTL is the lifetime of the certificates that istiod signs (its DEFAULT_WORKLOAD_CERT_TTL).
	WorkloadTTL time.Duration
	// RetryLimit is the longest pause between two attempts, 5 minutes when zero.
	RetryLimit time.Duration
	// KeepToken enables CheckToken.
	KeepToken bool
}

// State is all that the next step depends on. A new one has a Config and nothing else.
type State struct {
	config Config
	// desired is nil while there is no specification that can be used.
	desired *desired
	// published is the set that istiod can read, nil where there is none that is valid.
	published *Published
	// issuing is true from IssueStarted to the event that ends the attempt.
	issuing bool
	// failures counts the attempts since the last success or change of the specification, the last at failedAt.
	failures int
	failedAt time.Time
	failure  Failure
	// rejectedRoot is the fingerprint of the last root from the CA that could not be published, empty otherwise.
	rejectedRoot string
	// paced is when the attempts so far, without those that backoff delays, would end with a pause after each.
	paced time.Time
	// tokenDue is when to check the CA's token next.
	tokenDue time.Time
}

// Specification is what the machine needs to know of an IssuedCertificate.
type Specification struct {
	Digest string  // of all that a certificate depends on
	Renew  string  // the value of the annotation istiod-agent.io/renew
	Ratio  float64 // secretRotationGracePeriodRatio
	Token  bool    // the agent logs in with a token that must be kept alive
	// Adopted: the certificate is istiod's former one, of a Secret. An attempt to renew it publishes it again, unless another
	// program has renewed it there.
	Adopted bool
}

// desired is the Specification in force.
type desired struct {
	Specification
	seenAt time.Time // when Digest or Renew last changed
	// renewedAt is when Renew got another value while the agent ran, zero before.
	renewedAt time.Time
	roots     []string // fingerprints of the roots to trust, in their order; none for that of the certificate alone
}

// Set is what the machine needs to know of a verified set of files.
type Set struct {
	Serial              string
	NotBefore, NotAfter time.Time
	Digest, Renew       string   // of the Specification that it was issued for
	Root                string   // fingerprint of the root that the certificate leads to
	Roots               []string // fingerprints of all roots that istiod publishes as trusted
	// Served is the fingerprint of what istiod served before its roots alone were changed, empty otherwise.
	Served string
}

// Published is the set that istiod can read, and the state of its use by istiod.
type Published struct {
	Set
	// Reason is why the certificate was issued, empty for one that an earlier run published or whose use is confirmed.
	Reason    Reason
	Confirmed bool // istiod uses it
	Lost      bool // the directory does not hold it any more

	rootsRefused bool // istiod would not take the desired roots
	// readableFrom is when istiod could first have read it: publication or, later, the agent's own start.
	readableFrom  time.Time
	confirmations int // attempts so far, the last at askedAt
	askedAt       time.Time
	// otherSince is since when istiod has served another CA, or when the set was last published again for that; zero where
	// it does not answer, or the last answer was right.
	otherSince  time.Time
	republished int
}

// Overdue reports whether istiod has not been confirmed to use the set within ConfirmationLimit.
func (p *Published) Overdue() bool {
	return !p.Confirmed && p.askedAt.Sub(p.readableFrom) >= ConfirmationLimit
}

// New returns the State of an agent that knows nothing yet.
func New(config Config) State { return State{config: config} }

// Published returns a copy of the published set, nil where there is none that is valid.
func (s State) Published() *Published {
	if s.published == nil {
		return nil
	}
	p := *s.published
	return &p
}

// Specified reports whether there is a specification in force, and returns it.
func (s State) Specified() (Specification, bool) {
	if s.desired == nil {
		return Specification{}, false
	}
	return s.desired.Specification, true
}

// RenewAt returns when the published certificate is replaced, for the earliest cause, and whether its lifetime is
// too short for what istiod signs (see renewAt). The time is zero where nothing is published or specified.
func (s State) RenewAt() (at time.Time, tooShort bool) {
	p, d := s.published, s.desired
	if p == nil || d == nil {
		return time.Time{}, false
	}
	_, tooShort = renewAt(p.NotBefore, p.NotAfter, d.Ratio, s.config.WorkloadTTL, 0)
	_, at = s.nextRenewal()
	return at, tooShort
}

// Retry returns how many attempts have failed in a row, and when the next one is due.
func (s State) Retry() (failures int, at time.Time) {
	_, at = s.due()
	return s.failures, at
}

// RejectedRoot returns the fingerprint of the last root from the CA that could not be published, empty where there is none.
func (s State) RejectedRoot() string { return s.rejectedRoot }

// RootRejected reports whether the last attempt failed because istiod does not trust, or must not start under, the CA's root.
func (s State) RootRejected() bool {
	return s.failures > 0 && (s.failure == RootRejected || s.failure == RootAwaited)
}

// Pending reports whether the CA has a request and has not decided about it.
func (s State) Pending() bool { return s.failures > 0 && s.failure == undecided }
