// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"slices"
	"time"
)

// Event is something that happened. Each has one transition.
type Event interface {
	// apply may change s, which is a copy, but nothing that it points to.
	apply(s *State, now time.Time)
}

// After returns the State that an event at a time leads to.
func (s State) After(event Event, now time.Time) State {
	event.apply(&s, now)
	return s
}

// Specified is a specification that can be used: a new one, a changed one or the one in force.
type Specified struct{ Specification }

func (e Specified) apply(s *State, now time.Time) {
	old := s.desired
	if old != nil && old.Digest == e.Digest && old.Renew == e.Renew {
		return
	}
	d := desired{Specification: e.Specification, seenAt: now}
	if old != nil {
		d.roots, d.renewedAt = old.roots, old.renewedAt
		if e.Renew != old.Renew && e.Renew != "" { // a request that is withdrawn asks for nothing
			d.renewedAt = now
		}
	}
	if old == nil || old.Digest != e.Digest {
		s.tokenDue = time.Time{}
	}
	s.desired = &d
	permitRoots(s)
	retryAtOnce(s)
}

// RootsSpecified are the fingerprints of the roots to trust, none for that of the certificate alone.
type RootsSpecified struct{ Roots []string }

func (e RootsSpecified) apply(s *State, _ time.Time) {
	if s.desired == nil || slices.Equal(s.desired.roots, e.Roots) {
		return
	}
	d := *s.desired
	d.roots = slices.Clone(e.Roots)
	s.desired = &d
	permitRoots(s)
	if s.failure != OtherFailure {
		retryAtOnce(s)
	}
}

// StartConditionsChanged means that another root may be good enough for an istiod that has not started yet.
type StartConditionsChanged struct{}

func (StartConditionsChanged) apply(s *State, _ time.Time) {
	if s.failure == RootAwaited {
		retryAtOnce(s)
	}
}

// SetFound is a valid set that an earlier run published.
type SetFound struct{ Set }

func (e SetFound) apply(s *State, now time.Time) {
	s.published = &Published{Set: e.Set, readableFrom: now}
}

// IssueStarted is the start of an attempt.
type IssueStarted struct{}

func (IssueStarted) apply(s *State, now time.Time) {
	s.issuing = true
	if s.failures == 0 { // backoff paces the others
		s.paced = later(s.paced, now).Add(s.published.pause())
	}
}

// SetPublished is the success of an attempt.
type SetPublished struct {
	Set
	Reason Reason
}

func (e SetPublished) apply(s *State, now time.Time) {
	s.issuing, s.rejectedRoot = false, ""
	s.published = &Published{Set: e.Set, Reason: e.Reason, readableFrom: now}
	retryAtOnce(s)
}

// Failure is a kind of failed attempt.
type Failure int

const (
	// OtherFailure is one that has nothing to do with the CA's root.
	OtherFailure Failure = iota
	// RootRejected means that the CA's root is not one that istiod trusts.
	RootRejected
	// RootAwaited means that an istiod that has not started waits for the CA's root to be trusted by others.
	RootAwaited
	// undecided is no failure: the CA has a request and has not decided about it.
	undecided
)

// IssueFailed is the failure of an attempt. Nothing was published.
type IssueFailed struct {
	Failure Failure
	// Root is the fingerprint of a root that was rejected and that istiod might start under, empty otherwise.
	Root string
}

func (e IssueFailed) apply(s *State, now time.Time) {
	if s.failure == undecided {
		s.failures = 0
	}
	s.issuing, s.failure, s.rejectedRoot = false, e.Failure, e.Root
	s.failures++
	s.failedAt = now
}

// IssuePending is an attempt without a result yet: the CA has a request and has not decided about it. The next attempt follows at
// once, and continues with that request.
type IssuePending struct{}

func (IssuePending) apply(s *State, now time.Time) {
	s.issuing, s.failure, s.rejectedRoot = false, undecided, ""
	s.failures, s.failedAt = 1, now
}

// RootsPublished is the published certificate with other roots.
type RootsPublished struct{ Set }

func (e RootsPublished) apply(s *State, now time.Time) { SetFound(e).apply(s, now) }

// RootsRefused means that istiod would not take the desired roots while it runs. They are not tried again until they change.
type RootsRefused struct{}

func (RootsRefused) apply(s *State, _ time.Time) {
	change(s, func(p *Published) { p.rootsRefused = true })
}

// RootsDelayed means that other roots could not be published now. istiod is asked again before the next attempt.
type RootsDelayed struct{}

func (RootsDelayed) apply(s *State, _ time.Time) {
	change(s, func(p *Published) { p.Confirmed = false })
}

// FilesChecked is a comparison of istiod's files with the published set.
type FilesChecked struct{ Intact bool }

func (e FilesChecked) apply(s *State, _ time.Time) {
	change(s, func(p *Published) { p.Lost = !e.Intact })
}

// Confirmed means that istiod serves a certificate under the published CA.
type Confirmed struct{}

func (Confirmed) apply(s *State, now time.Time) {
	change(s, func(p *Published) {
		p.confirmations++
		p.askedAt, p.otherSince = now, time.Time{}
		p.Confirmed, p.Reason = true, ""
	})
}

// NotConfirmed means that istiod does not answer or, with Other, serves a certificate under another CA.
type NotConfirmed struct{ Other bool }

func (e NotConfirmed) apply(s *State, now time.Time) {
	change(s, func(p *Published) {
		p.confirmations++
		p.askedAt = now
		switch {
		case !e.Other:
			p.otherSince = time.Time{}
		case p.otherSince.IsZero():
			p.otherSince = now
		}
	})
}

// Republished is an attempt to publish the same set once more.
type Republished struct{}

func (Republished) apply(s *State, now time.Time) {
	change(s, func(p *Published) {
		p.otherSince = now
		p.republished++
	})
}

// TokenChecked is a check of the CA's token; the next one is due at Next.
type TokenChecked struct{ Next time.Time }

func (e TokenChecked) apply(s *State, _ time.Time) { s.tokenDue = e.Next }

// retryAtOnce ends the backoff.
func retryAtOnce(s *State) { s.failures, s.failure = 0, OtherFailure }

// permitRoots lets roots be published that istiod refused before.
func permitRoots(s *State) {
	change(s, func(p *Published) { p.rootsRefused = false })
}

// change replaces the published set, if any, by a changed copy.
func change(s *State, how func(*Published)) {
	if s.published != nil {
		p := *s.published
		how(&p)
		s.published = &p
	}
}
