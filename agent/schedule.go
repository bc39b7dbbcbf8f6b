// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"hash/fnv"
	"slices"
	"strconv"
	"time"
)

// Reason says why a certificate is issued. The keys are those of log lines, events and metrics.
type Reason string

// The reasons to issue a certificate.
const (
	Initial              Reason = "Initial"              // istiod has none yet
	Expiring             Reason = "Expiring"             // the published one is to be replaced in time
	SpecificationChanged Reason = "SpecificationChanged" // the published one is not as specified any more
	RenewRequested       Reason = "RenewRequested"       // the annotation istiod-agent.io/renew has a new value
	FilesLost            Reason = "FilesLost"            // what istiod reads is not what was published
)

const (
	// What changes the specification is seen by every cluster at once: each takes its turn within this time.
	specificationSpread = 10 * time.Minute
	// An intermediate must outlive what istiod signs with it (facts: Istio before 1.28.7 does not clamp
	// a leaf's end to its signer's), and an hour is for Vault to come back.
	renewalMargin = time.Hour
	// istiod looks at new files 100 ms after the swap; until this long after it, waiting is normal.
	confirmationLimit = time.Minute

	firstRetry = time.Second
	retryLimit = 5 * time.Minute
	// Asking again does not bring the old root back, and every answer costs Vault a signature.
	rootChangedRetryLimit = time.Hour

	// Between two publications lies a pause: a minute, or a tenth of the certificate's life where that is shorter, as near the
	// end of a root. No CA whose certificates end at once shortens it below a second.
	longestPause, shortestPause = time.Minute, time.Second
	// What others ask for, by the annotation, the specification or by taking files away, need not wait for the pause this many
	// times in a row, so that a person gets an answer at once; then it has the same pause.
	requestBurst = 5

	// What other replicas have, and what the mesh publishes, may change at any time; an istiod that waits for it signs nothing.
	rootWaitsRetry = time.Minute
)

// State is all that the next step depends on.
type State struct {
	// Wanted is the specification, nil while there is none that can be acted on.
	Wanted *Wanted
	// Held is what istiod can read now, nil when there is nothing of use.
	Held *Held
	// Failures counts the attempts since the last success or change of the specification, the last at FailedAt.
	Failures int
	FailedAt time.Time
	// RootChanged is set when the last attempt failed because Vault's root is not istiod's.
	RootChanged bool
	// RootWaits is set besides when that kept an istiod from starting.
	RootWaits bool
	// Paced is when the attempts so far, without those that Backoff puts off, would end with a pause after each.
	Paced time.Time
	// RetryLimit is the longest pause between two attempts, 5 minutes when zero.
	RetryLimit time.Duration
	// Seed tells the replicas of all clusters apart.
	Seed string
	// WorkloadTTL is how long the certificates live that istiod signs (its DEFAULT_WORKLOAD_CERT_TTL).
	WorkloadTTL time.Duration
}

// Wanted is what the schedule needs to know of a specification.
type Wanted struct {
	Digest string    // of all that a certificate depends on
	Renew  string    // value of the annotation istiod-agent.io/renew
	Ratio  float64   // secretRotationGracePeriodRatio
	SeenAt time.Time // when this was first seen
	// RenewedAt is when Renew was seen to get another value, zero when it was not.
	RenewedAt time.Time
	Roots     []string // fingerprints of the roots to trust, in their order; none for that of the certificate alone
}

// Held is what the schedule needs to know of the published certificate.
type Held struct {
	Serial              string
	NotBefore, NotAfter time.Time
	Digest, Renew       string   // of the specification it was issued for
	Lost                bool     // the directory does not hold it as it was published
	Root                string   // fingerprint of the root that the certificate leads to
	Roots               []string // those of all that istiod publishes as trusted
	RootsRefused        bool     // istiod would not take the roots that are wanted
	Served              string   // fingerprint of what istiod served before its roots alone were changed
	// ConfirmFrom is when istiod could first have read it: publication or, later, the agent's own start.
	ConfirmFrom   time.Time
	Confirmed     bool
	Confirmations int // attempts so far, the last at TriedAt
	TriedAt       time.Time
	// OtherSince is since when istiod has answered under another CA, or when the files were last published again
	// for that; zero when it does not answer, or the last answer was right.
	OtherSince  time.Time
	Republished int // how often that was
}

// Action is what to do next.
type Action int

// The actions.
const (
	Wait Action = iota
	Issue
	Confirm
	Republish
	Retrust // publish the same certificate with the roots that are to be trusted now
)

// Step is the next thing to do, at once; Wait is until Until (zero: until something changes).
type Step struct {
	Action Action
	Reason Reason
	Until  time.Time
}

// Next gives the next step. It is a function of its arguments alone: what spreads the replicas
// in time is derived from the seed and the certificate's serial number, so a restart changes no plan.
func Next(s State, now time.Time) Step {
	var wake time.Time
	if s.retrust() {
		return Step{Action: Retrust}
	}
	if reason, due := s.due(); !due.IsZero() {
		if !due.After(now) {
			return Step{Action: Issue, Reason: reason}
		}
		wake = due
	}
	if held := s.Held; held != nil && !held.Confirmed {
		if other := held.OtherSince; !other.IsZero() && !held.Lost && !other.Add(held.republishPause()).After(now) {
			return Step{Action: Republish}
		}
		ask := held.nextConfirmation()
		if !ask.After(now) {
			return Step{Action: Confirm}
		}
		if wake.IsZero() || ask.Before(wake) {
			wake = ask
		}
	}
	return Step{Action: Wait, Until: wake}
}

// retrust says whether istiod, which is known to use what it has, is to trust other roots with it.
func (s State) retrust() bool {
	h := s.Held
	if s.Wanted == nil || h == nil || h.Lost || !h.Confirmed || h.RootsRefused || len(h.Roots) == 0 {
		return false
	}
	roots := s.Wanted.Roots
	if len(roots) == 0 {
		roots = []string{h.Root}
	}
	// Roots without the certificate's own come with the next certificate.
	return !slices.Equal(roots, h.Roots) && slices.Contains(roots, h.Root)
}

// due says when, and why, the next certificate is to be issued: the earliest of all reasons, put off
// while attempts fail and while istiod may still be reading the last one. Zero means never, as things are.
func (s State) due() (Reason, time.Time) {
	if s.Wanted == nil {
		return "", time.Time{}
	}
	reason, at := s.wish()
	h := s.Held
	switch {
	case s.Failures > 0:
		at = later(at, s.FailedAt.Add(s.backoff()))
	case reason == Expiring:
		at = later(at, h.ConfirmFrom.Add(h.pause()))
	default:
		at = later(at, s.Paced.Add(-(requestBurst-1)*h.pause()))
	}
	if h != nil && !h.Confirmed && !h.Lost {
		at = later(at, h.ConfirmFrom.Add(confirmationLimit))
	}
	return reason, at
}

// paced is Paced after an attempt now.
func (s State) paced(now time.Time) time.Time {
	if s.Failures > 0 {
		return s.Paced
	}
	return later(s.Paced, now).Add(s.Held.pause())
}

// pause is the least time between two publications.
func (h *Held) pause() time.Duration {
	if h == nil {
		return longestPause
	}
	return max(shortestPause, min(longestPause, h.NotAfter.Sub(h.NotBefore)/10))
}

func (s State) wish() (Reason, time.Time) {
	h, w := s.Held, s.Wanted
	if h == nil {
		return Initial, w.SeenAt
	}
	reason := Expiring
	at, _ := RenewAt(h.NotBefore, h.NotAfter, w.Ratio, s.WorkloadTTL, spread(h.Serial))
	earlier := func(r Reason, t time.Time) {
		if t.Before(at) {
			reason, at = r, t
		}
	}
	if w.Digest != h.Digest {
		turn := w.SeenAt.Add(time.Duration(spread(h.Serial+w.Digest) * float64(specificationSpread)))
		if w.SeenAt.Sub(w.RenewedAt) < specificationSpread {
			turn = w.SeenAt // whoever asked for a renewal just before was quicker than who writes what it was asked for
		}
		earlier(SpecificationChanged, turn)
	}
	if w.Renew != "" && w.Renew != h.Renew {
		earlier(RenewRequested, w.SeenAt)
	}
	if h.Lost {
		earlier(FilesLost, h.NotBefore)
	}
	return reason, at
}

// RenewAt gives the time to replace a certificate: notAfter − max(ratio × lifetime, workloadTTL + 1 h),
// less a part, given by random in [0,1), of a tenth of the lifetime. Where that would leave less than a
// quarter of the lifetime to use it, the ratio alone counts and tooShort is true: certificates that istiod
// signs near the end may then outlive the one they are signed with.
func RenewAt(notBefore, notAfter time.Time, ratio float64, workloadTTL time.Duration, random float64) (at time.Time, tooShort bool) {
	lifetime := notAfter.Sub(notBefore)
	lead := time.Duration(ratio * float64(lifetime))
	if safe := min(workloadTTL, lifetime) + renewalMargin; lead < safe {
		if safe+lifetime/10 > lifetime-lifetime/4 {
			tooShort = true
		} else {
			lead = safe
		}
	}
	at = notAfter.Add(-lead - time.Duration(random*float64(lifetime/10)))
	if at.Before(notBefore) { // a ratio above 0.9
		at = notBefore
	}
	return at, tooShort
}

// Backoff gives the pause after so many failures in a row: from 1 s, doubled each time up to the limit,
// of which the half, given by random in [0,1), is left to chance.
func Backoff(failures int, limit time.Duration, random float64) time.Duration {
	pause := firstRetry
	for i := 1; i < failures && pause < limit; i++ {
		pause *= 2
	}
	pause = min(pause, limit)
	return pause - time.Duration(random*float64(pause/2))
}

func (s State) backoff() time.Duration {
	limit := s.RetryLimit
	if limit == 0 {
		limit = retryLimit
	}
	random := spread(s.Seed + strconv.Itoa(s.Failures))
	if s.RootWaits {
		return rootWaitsRetry - time.Duration(random*float64(rootWaitsRetry/2))
	}
	if s.RootChanged {
		limit = rootChangedRetryLimit
	}
	return Backoff(s.Failures, limit, random)
}

// nextConfirmation is when to ask istiod next: soon after a swap, then ever more seldom.
func (h *Held) nextConfirmation() time.Time {
	if h.Confirmations == 0 {
		return h.ConfirmFrom
	}
	pause := 250 * time.Millisecond << min(h.Confirmations-1, 7)
	return h.TriedAt.Add(min(pause, 30*time.Second))
}

// republishPause is how long istiod may go on with another CA before the files are published again: ever longer, since
// a certificate of the user's own on its TLS port hides which CA it uses.
func (h *Held) republishPause() time.Duration {
	return confirmationLimit << min(h.Republished, 6)
}

// spread turns a text into a number in [0,1), evenly over texts.
func spread(text string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	// FNV changes its high bits little for texts that differ at the end only; one round of mixing does.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
