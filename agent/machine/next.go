// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"cmp"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// Reason is why a certificate is issued: the key of log lines, events and metrics.
type Reason string

// The reasons to issue a certificate.
//
//reasons:page renewal
const (
	// Initial: istiod has no CA yet, or no valid one. As a reason of a condition: a Pod has not reported a CA yet.
	//
	// Remedy: none; the agent gets one. If it lasts, the Pod's `error` in the status, or `kubectl describe pod`,
	// contains the cause.
	Initial Reason = "Initial"
	// Expiring: The published CA reaches its [renewal time](agent.md#when-it-renews).
	//
	// Remedy: none.
	Expiring Reason = "Expiring"
	// SpecificationChanged: The published CA differs from the specification.
	//
	// Remedy: none.
	SpecificationChanged Reason = "SpecificationChanged"
	// RenewRequested: The annotation `istiod-agent.io/renew` has a new value, for example from `kubectl istiod-agent
	// renew`.
	//
	// Remedy: none.
	RenewRequested Reason = "RenewRequested"
	// FilesLost: istiod's files differ from the published set: something removed or changed them. The agent gets a new
	// CA at once.
	//
	// Remedy: find out what writes into istiod's volume at `/etc/cacerts`.
	FilesLost Reason = "FilesLost"
)

const (
	// PollInterval is how often the agent re-checks its files and the wall clock: timers miss suspends and clock changes.
	PollInterval = 30 * time.Second
	// ConfirmationLimit is how long istiod may take to load new files; it looks at them 100 ms after the swap.
	ConfirmationLimit = time.Minute

	// specificationSpread spreads the renewals after a changed specification, which all clusters see at once.
	specificationSpread = 10 * time.Minute
	// renewalMargin is the time left for the CA to come back, beyond the life of what istiod signs: an intermediate must outlive
	// that (Istio before 1.28.7 does not clamp a leaf's end to its signer's, security/pkg/pki/ca/ca.go).
	renewalMargin = time.Hour

	firstRetry = time.Second
	retryLimit = 5 * time.Minute
	// rootRejectedRetryLimit is longer: another attempt does not restore the old root, and each costs the CA a signature.
	rootRejectedRetryLimit = time.Hour
	// rootAwaitedRetry is shorter: what other replicas and the mesh trust may change at any time, and istiod signs nothing
	// meanwhile.
	rootAwaitedRetry = time.Minute

	// Between two publications lies a pause: a minute, or a tenth of the certificate's life where that is shorter, as near the
	// end of a root. No CA whose certificates end at once shortens it below a second.
	longestPause, shortestPause = time.Minute, time.Second
	// requestBurst is how many requests of others (annotation, specification, removed files) in a row skip that pause, so that
	// a person sees the result at once.
	requestBurst = 5
)

// Action is what to do next.
type Action int

// The actions.
const (
	Wait Action = iota
	Issue
	Confirm
	Republish    // publish the same set once more
	PublishRoots // publish the same certificate with the desired roots
	CheckToken
)

// Step is the next thing to do, at once. Wait lasts until Until, which is zero where only an event ends it.
type Step struct {
	Action Action
	Reason Reason
	Until  time.Time
}

// Pause returns how long to wait in this step at most: never longer than PollInterval, whatever Until is.
func (s Step) Pause(now time.Time) time.Duration {
	if s.Until.IsZero() {
		return PollInterval
	}
	return min(PollInterval, s.Until.Sub(now))
}

// Next returns the next step. It depends on its arguments alone: what spreads the replicas in time derives from the seed and
// the certificate's serial number, so that a restart changes no plan.
func Next(s State, now time.Time) Step {
	if s.issuing {
		return Step{Action: Wait}
	}
	if s.rootsDiffer() {
		return Step{Action: PublishRoots}
	}
	var wake time.Time
	if reason, due := s.due(); !due.IsZero() {
		if !due.After(now) {
			return Step{Action: Issue, Reason: reason}
		}
		wake = due
	}
	if p := s.published; p != nil && !p.Confirmed {
		if other := p.otherSince; !other.IsZero() && !p.Lost && !other.Add(p.republishPause()).After(now) {
			return Step{Action: Republish}
		}
		ask := p.nextConfirmation()
		if !ask.After(now) {
			return Step{Action: Confirm}
		}
		wake = earliest(wake, ask)
	}
	if s.config.KeepToken && s.desired != nil && s.desired.Token {
		if !s.tokenDue.After(now) {
			return Step{Action: CheckToken}
		}
		wake = earliest(wake, s.tokenDue)
	}
	return Step{Action: Wait, Until: wake}
}

// rootsDiffer reports whether istiod, which is known to use the published set, needs other roots with the same certificate.
func (s State) rootsDiffer() bool {
	p := s.published
	if s.desired == nil || p == nil || p.Lost || !p.Confirmed || p.rootsRefused || len(p.Roots) == 0 {
		return false
	}
	roots := s.desired.roots
	if len(roots) == 0 {
		roots = []string{p.Root}
	}
	// Roots without the certificate's own come with the next certificate.
	return !slices.Equal(roots, p.Roots) && slices.Contains(roots, p.Root)
}

// due returns when, and why, to issue the next certificate: at the earliest of all reasons, delayed while attempts fail and
// while istiod may still be reading the last one. It is zero while there is no specification.
func (s State) due() (Reason, time.Time) {
	if s.desired == nil {
		return "", time.Time{}
	}
	reason, at := s.nextRenewal()
	p := s.published
	switch {
	case s.failures > 0:
		at = later(at, s.failedAt.Add(s.backoff()))
	case reason == Expiring && s.desired.Adopted:
		at = later(at, p.readableFrom.Add(p.adoptedPause()))
	case reason == Expiring:
		at = later(at, p.readableFrom.Add(p.pause()))
	default:
		at = later(at, s.paced.Add(-(requestBurst-1)*p.pause()))
	}
	if p != nil && !p.Confirmed && !p.Lost {
		at = later(at, p.readableFrom.Add(ConfirmationLimit))
	}
	return reason, at
}

// pause is the least time between two publications.
func (p *Published) pause() time.Duration {
	if p == nil {
		return longestPause
	}
	return max(shortestPause, min(longestPause, p.NotAfter.Sub(p.NotBefore)/10))
}

// adoptedPause is that of an adopted certificate that is due: an hour, or a tenth of its life where that is shorter.
func (p *Published) adoptedPause() time.Duration {
	return max(p.pause(), min(time.Hour, p.NotAfter.Sub(p.NotBefore)/10))
}

// nextRenewal returns the earliest reason to issue a certificate, and its time, as if no attempt had failed.
func (s State) nextRenewal() (Reason, time.Time) {
	p, d := s.published, s.desired
	if p == nil {
		return Initial, d.seenAt
	}
	reason := Expiring
	at, _ := renewAt(p.NotBefore, p.NotAfter, d.Ratio, s.config.WorkloadTTL, jitter(p.Serial))
	earlier := func(r Reason, t time.Time) {
		if t.Before(at) {
			reason, at = r, t
		}
	}
	if d.Digest != p.Digest {
		turn := d.seenAt.Add(time.Duration(jitter(p.Serial+d.Digest) * float64(specificationSpread)))
		if d.seenAt.Sub(d.renewedAt) < specificationSpread {
			turn = d.seenAt // the request to renew was seen before the change that it was made for
		}
		earlier(SpecificationChanged, turn)
	}
	if d.Renew != "" && d.Renew != p.Renew {
		earlier(RenewRequested, d.seenAt)
	}
	if p.Lost {
		earlier(FilesLost, p.NotBefore)
	}
	return reason, at
}

// renewAt returns the time to replace a certificate: notAfter − max(ratio × lifetime, workloadTTL + 1 h),
// less a part, given by random in [0,1), of a tenth of the lifetime. Where that would leave less than a
// quarter of the lifetime to use it, the ratio alone counts and tooShort is true: certificates that istiod
// signs near the end may then outlive the one they are signed with.
func renewAt(notBefore, notAfter time.Time, ratio float64, workloadTTL time.Duration, random float64) (at time.Time, tooShort bool) {
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
	return later(at, notBefore), tooShort // at is earlier with a ratio above 0.9
}

// backoffAfter returns the pause after a number of failures in a row: from 1 s, doubled each time up to the limit,
// less up to a half of it, given by random in [0,1).
func backoffAfter(failures int, limit time.Duration, random float64) time.Duration {
	pause := firstRetry
	for i := 1; i < failures && pause < limit; i++ {
		pause *= 2
	}
	pause = min(pause, limit)
	return pause - time.Duration(random*float64(pause/2))
}

func (s State) backoff() time.Duration {
	random := jitter(s.config.Seed + strconv.Itoa(s.failures))
	limit := cmp.Or(s.config.RetryLimit, retryLimit)
	switch s.failure {
	case RootAwaited:
		return rootAwaitedRetry - time.Duration(random*float64(rootAwaitedRetry/2))
	case RootRejected:
		limit = rootRejectedRetryLimit
	}
	return backoffAfter(s.failures, limit, random)
}

// nextConfirmation is when to ask istiod next: soon after a swap, then ever more rarely.
func (p *Published) nextConfirmation() time.Time {
	if p.confirmations == 0 {
		return p.readableFrom
	}
	pause := 250 * time.Millisecond << min(p.confirmations-1, 7)
	return p.askedAt.Add(min(pause, 30*time.Second))
}

// republishPause is how long istiod may serve another CA before the files are published again. It grows, since a
// certificate of the user's own on istiod's TLS port hides which CA istiod uses.
func (p *Published) republishPause() time.Duration {
	return ConfirmationLimit << min(p.republished, 6)
}

// jitter maps a text to a number in [0,1), evenly over texts.
func jitter(text string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	return rand.New(rand.NewPCG(h.Sum64(), 0)).Float64() //nolint:gosec // it spreads renewals and protects nothing
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// earliest returns the earlier of two times; a zero time means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
