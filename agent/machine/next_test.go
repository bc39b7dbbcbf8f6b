// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"math"
	"testing"
	"time"
)

const day = 24 * time.Hour

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestRenewAt(t *testing.T) {
	for name, test := range map[string]struct {
		lifetime  time.Duration
		ratio     float64
		ttl       time.Duration
		random    float64
		want      time.Duration // after notBefore
		wantShort bool
	}{
		"the ratio, where it leaves more than the workloads need":  {lifetime: 365 * day, ratio: 0.1, ttl: day, want: 328*day + 12*time.Hour},
		"less a tenth of the lifetime at most":                     {lifetime: 365 * day, ratio: 0.1, ttl: day, random: 1, want: 292 * day},
		"what Vault's default maximum gives":                       {lifetime: 768 * time.Hour, ratio: 0.1, ttl: day, want: 691*time.Hour + 12*time.Minute},
		"the workloads' time and an hour, where the ratio is less": {lifetime: 5 * day, ratio: 0.1, ttl: day, want: 95 * time.Hour},
		"the ratio alone, where the workloads' time is too long":   {lifetime: 30 * time.Hour, ratio: 0.1, ttl: day, want: 27 * time.Hour, wantShort: true},
		"of workloads that live for ever":                          {lifetime: 100 * day, ratio: 0.1, ttl: math.MaxInt64, want: 90 * day, wantShort: true},
		"of a minute":                                              {lifetime: time.Minute, ratio: 0.1, ttl: day, random: 0.5, want: 51 * time.Second, wantShort: true},
		"never before the certificate begins":                      {lifetime: 100 * day, ratio: 0.99, ttl: day, random: 1, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			at, short := renewAt(start, start.Add(test.lifetime), test.ratio, test.ttl, test.random)
			if got := at.Sub(start); got.Round(time.Second) != test.want || short != test.wantShort {
				t.Errorf("got %s (too short: %v), want %s (%v)", got, short, test.want, test.wantShort)
			}
		})
	}
}

func TestBackoffAfter(t *testing.T) {
	for _, test := range []struct {
		failures int
		limit    time.Duration
		most     time.Duration
	}{
		{1, retryLimit, time.Second},
		{2, retryLimit, 2 * time.Second},
		{5, retryLimit, 16 * time.Second},
		{9, retryLimit, 256 * time.Second},
		{10, retryLimit, retryLimit},
		{1000000, retryLimit, retryLimit},
		{1000, PollInterval, PollInterval},
	} {
		if got := backoffAfter(test.failures, test.limit, 0); got != test.most {
			t.Errorf("after %d failures: got %s, want %s", test.failures, got, test.most)
		}
		if got := backoffAfter(test.failures, test.limit, math.Nextafter(1, 0)); got < test.most/2 || got > test.most {
			t.Errorf("after %d failures, at the other end of chance: got %s, want at least half of %s", test.failures, got, test.most)
		}
	}
}

func TestJitterIsEven(t *testing.T) {
	const n, parts = 30000, 10
	var count [parts]int
	for i := range n {
		x := jitter(fmt.Sprintf("istio-system/istiod-7d9f8-%05d", i))
		if x < 0 || x >= 1 {
			t.Fatalf("%v is not in [0,1)", x)
		}
		count[int(x*parts)]++
	}
	for part, got := range count {
		if got < n/parts*9/10 || got > n/parts*11/10 {
			t.Errorf("part %d of %d: got %d of %d", part, parts, got, n)
		}
	}
}

// specified and inUse are of a certificate of 100 days, published and confirmed at its start.
func specified() *desired {
	return &desired{Specification: Specification{Digest: "a", Ratio: 0.1}, seenAt: start}
}

func inUse() *Published {
	return &Published{Set: Set{Serial: "01", NotBefore: start, NotAfter: start.Add(100 * day), Digest: "a"}, readableFrom: start, Confirmed: true}
}

func TestNext(t *testing.T) {
	now := start.Add(10 * day)
	due, _ := renewAt(start, start.Add(100*day), 0.1, day, jitter("01"))
	base := func(change func(*State)) State {
		s := State{desired: specified(), published: inUse(), config: Config{WorkloadTTL: day, Seed: "istio-system/istiod-0"}}
		change(&s)
		return s
	}
	turn := now.Add(time.Duration(jitter("01b") * float64(10*time.Minute)))
	failed := func(s *State) { s.failures, s.failedAt = 3, now }
	pause := backoffAfter(3, retryLimit, jitter("istio-system/istiod-03"))
	for name, test := range map[string]struct {
		state State
		at    time.Time
		want  Step
	}{
		"without a specification, wait for one": {State{}, now, Step{Action: Wait}},
		"without a specification, what is held is only confirmed": {
			base(func(s *State) { s.desired = nil; s.published.Confirmed = false }), now, Step{Action: Confirm},
		},
		"with nothing held, issue":            {base(func(s *State) { s.published = nil }), now, Step{Action: Issue, Reason: Initial}},
		"with all well, wait for the renewal": {base(func(*State) {}), now, Step{Action: Wait, Until: due}},
		"at its time, renew":                  {base(func(*State) {}), due, Step{Action: Issue, Reason: Expiring}},
		"past its end, renew":                 {base(func(*State) {}), start.Add(101 * day), Step{Action: Issue, Reason: Expiring}},
		"an adopted certificate that is due was published again": {
			base(func(s *State) { s.desired.Adopted, s.published.readableFrom = true, due }), due.Add(time.Hour - time.Second), Step{Action: Wait, Until: due.Add(time.Hour)},
		},
		"an hour later its Secret may have another one": {
			base(func(s *State) { s.desired.Adopted, s.published.readableFrom = true, due }), due.Add(time.Hour), Step{Action: Issue, Reason: Expiring},
		},
		"an adopted certificate is replaced by another specification": {
			base(func(s *State) { s.desired.Adopted, s.desired.Digest, s.desired.seenAt = true, "b", due.Add(-day) }), due, Step{Action: Issue, Reason: SpecificationChanged},
		},
		"with another specification, wait for one's turn": {
			base(func(s *State) { s.desired.Digest, s.desired.seenAt = "b", now }), now, Step{Action: Wait, Until: turn},
		},
		"with another specification, renew at one's turn": {
			base(func(s *State) { s.desired.Digest, s.desired.seenAt = "b", now }), turn, Step{Action: Issue, Reason: SpecificationChanged},
		},
		"with another specification, soon after one was asked to renew, renew at once": {
			base(func(s *State) {
				s.desired.Digest, s.desired.seenAt, s.desired.renewedAt = "b", now, now.Add(-specificationSpread+time.Second)
			}), now, Step{Action: Issue, Reason: SpecificationChanged},
		},
		"with another specification, long after one was asked to renew, wait for one's turn": {
			base(func(s *State) {
				s.desired.Digest, s.desired.seenAt, s.desired.renewedAt = "b", now, now.Add(-specificationSpread)
			}), now, Step{Action: Wait, Until: turn},
		},
		"asked to renew, renew at once": {
			base(func(s *State) { s.desired.Renew, s.desired.seenAt = "again", now }), now, Step{Action: Issue, Reason: RenewRequested},
		},
		"asked before, and done": {
			base(func(s *State) { s.desired.Renew, s.published.Renew = "again", "again" }), now, Step{Action: Wait, Until: due},
		},
		"the request taken back": {base(func(s *State) { s.published.Renew = "again" }), now, Step{Action: Wait, Until: due}},
		"with the files lost, issue at once": {
			base(func(s *State) { s.published.Lost = true }), now, Step{Action: Issue, Reason: FilesLost},
		},
		"after failures, wait":                           {base(func(s *State) { failed(s); s.published = nil }), now, Step{Action: Wait, Until: now.Add(pause)}},
		"after the pause, try again":                     {base(func(s *State) { failed(s); s.published = nil }), now.Add(pause), Step{Action: Issue, Reason: Initial}},
		"after failures, nothing is due before its time": {base(failed), now.Add(time.Hour), Step{Action: Wait, Until: due}},
		"with another root, Vault is asked once an hour": {
			base(func(s *State) { s.published.Lost, s.failures, s.failedAt, s.failure = true, 100, now, RootRejected }),
			now.Add(25 * time.Minute),
			Step{Action: Wait, Until: now.Add(backoffAfter(100, time.Hour, jitter("istio-system/istiod-0100")))},
		},
		"waiting for other replicas, Vault is asked once a minute": {
			base(func(s *State) {
				s.published, s.failures, s.failedAt, s.failure = nil, 100, now, RootAwaited
			}),
			now.Add(30 * time.Second),
			Step{Action: Wait, Until: now.Add(backoffAfter(100, time.Minute, jitter("istio-system/istiod-0100")))},
		},
		"what is new is confirmed": {base(func(s *State) { s.published.Confirmed, s.published.readableFrom = false, now }), now, Step{Action: Confirm}},
		"not confirmed at once, ask again soon": {
			base(func(s *State) {
				s.published.Confirmed, s.published.readableFrom, s.published.confirmations, s.published.askedAt = false, now, 1, now
			}), now, Step{Action: Wait, Until: now.Add(250 * time.Millisecond)},
		},
		"never confirmed, ask on and on": {
			base(func(s *State) {
				s.published.Confirmed, s.published.readableFrom, s.published.confirmations, s.published.askedAt = false, start, 1000, now
			}), now, Step{Action: Wait, Until: now.Add(30 * time.Second)},
		},
		"no second swap while istiod may still read the first": {
			base(func(s *State) {
				s.published.Confirmed, s.published.readableFrom, s.published.confirmations, s.published.askedAt = false, now, 100, now.Add(50*time.Second)
				s.desired.Renew = "again"
			}), now.Add(50 * time.Second), Step{Action: Wait, Until: now.Add(time.Minute)},
		},
		"under another CA for less than a minute, ask again": {
			base(func(s *State) {
				s.published.Confirmed, s.published.confirmations, s.published.askedAt, s.published.otherSince = false, 1000, now, now.Add(-59*time.Second)
			}), now, Step{Action: Wait, Until: now.Add(30 * time.Second)},
		},
		"under another CA for a minute, publish again": {
			base(func(s *State) {
				s.published.Confirmed, s.published.confirmations, s.published.askedAt, s.published.otherSince = false, 1000, now, now.Add(-time.Minute)
			}), now, Step{Action: Republish},
		},
		"published again often, do it seldom": {
			base(func(s *State) {
				s.published.Confirmed, s.published.confirmations, s.published.askedAt = false, 1000, now
				s.published.otherSince, s.published.republished = now.Add(-time.Hour), 100
			}), now, Step{Action: Wait, Until: now.Add(30 * time.Second)},
		},
		"more roots to trust, publish them": {
			base(func(s *State) {
				s.published.Root, s.published.Roots, s.desired.roots = "old", []string{"old"}, []string{"old", "new"}
			}),
			now,
			Step{Action: PublishRoots},
		},
		"the roots first, then the certificate that is due": {
			base(func(s *State) {
				s.published.Root, s.published.Roots, s.desired.roots = "old", []string{"old"}, []string{"old", "new"}
			}),
			due,
			Step{Action: PublishRoots},
		},
		"no more than the certificate's own root to trust": {
			base(func(s *State) { s.published.Root, s.published.Roots = "new", []string{"old", "new"} }), now, Step{Action: PublishRoots},
		},
		"in another order, they are others": {
			base(func(s *State) {
				s.published.Root, s.published.Roots, s.desired.roots = "old", []string{"old", "new"}, []string{"new", "old"}
			}), now, Step{Action: PublishRoots},
		},
		"the roots are there": {
			base(func(s *State) {
				s.published.Root, s.published.Roots, s.desired.roots = "old", []string{"old", "new"}, []string{"old", "new"}
			}), now, Step{Action: Wait, Until: due},
		},
		"roots without the certificate's own wait for the next certificate": {
			base(func(s *State) {
				s.published.Root, s.published.Roots, s.desired.roots = "old", []string{"old"}, []string{"new"}
			}),
			now,
			Step{Action: Wait, Until: due},
		},
		"roots that istiod does not take are not tried again": {
			base(func(s *State) {
				s.published.Root, s.published.Roots, s.desired.roots, s.published.rootsRefused = "old", []string{"old"}, []string{"old", "new"}, true
			}), now, Step{Action: Wait, Until: due},
		},
		"roots wait until istiod uses what it has": {
			base(func(s *State) {
				s.published.Root, s.published.Roots, s.desired.roots = "old", []string{"old"}, []string{"old", "new"}
				s.published.Confirmed, s.published.confirmations, s.published.askedAt = false, 1000, now
			}), now, Step{Action: Wait, Until: now.Add(30 * time.Second)},
		},
		"never confirmed, renewed all the same": {
			base(func(s *State) {
				s.published.Confirmed, s.published.confirmations, s.published.askedAt = false, 1000, due
			}), due, Step{Action: Issue, Reason: Expiring},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Next(test.state, test.at)
			if got.Action != test.want.Action || got.Reason != test.want.Reason || !got.Until.Equal(test.want.Until) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// A value of the annotation that changes every second, files that are lost again and again, a ratio near one and a root in its last
// minutes ask for a certificate again and again: each costs a key here, a signature of Vault and a reload of istiod.
func TestNextPacesIssues(t *testing.T) {
	t.Parallel()
	const seconds = 3600
	asks := func(s *State, now time.Time) { s.desired.Renew, s.desired.seenAt = now.String(), now }
	for name, test := range map[string]struct {
		ratio float64
		life  func(now time.Time) (notBefore, notAfter time.Time) // of what is issued now
		ask   func(*State, time.Time)
		most  int
	}{
		"a ratio near one":       {ratio: 0.99999, life: lives(100 * day), most: seconds / 60},
		"certificates that end":  {ratio: 0.1, life: lives(0), most: seconds},
		"certificates of 10 min": {ratio: 0.1, life: lives(10 * time.Minute), most: seconds/(7*60) + 1},
		"the last minutes of a root": {ratio: 0.1, life: func(now time.Time) (time.Time, time.Time) {
			return now.Add(-30 * time.Second), later(now, start.Add(10*time.Minute)) // as Vault dates and shortens them
		}, most: 30 + seconds/3},
		"the annotation changes":                  {ratio: 0.1, life: lives(100 * day), ask: asks, most: requestBurst + seconds/60},
		"the annotation changes, of a short life": {ratio: 0.1, life: lives(100 * time.Second), ask: asks, most: requestBurst + seconds/10},
		"files are lost":                          {ratio: 0.1, life: lives(100 * day), ask: func(s *State, _ time.Time) { s.published.Lost = true }, most: requestBurst + seconds/60},
		"asked once in 10 min": {ratio: 0.1, life: lives(100 * day), ask: func(s *State, now time.Time) {
			if now.Minute()%10 == 0 && now.Second() == 0 {
				asks(s, now)
			}
		}, most: seconds / 600},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := State{desired: specified(), published: inUse(), config: Config{WorkloadTTL: day}}
			s.desired.Ratio = test.ratio
			count := 0
			var last time.Time
			for i := range seconds {
				now := start.Add(time.Duration(i) * time.Second)
				if test.ask != nil {
					test.ask(&s, now)
				}
				if Next(s, now).Action != Issue {
					continue
				}
				if pause := s.published.pause(); test.ask == nil && count > 0 && now.Sub(last) < pause {
					t.Fatalf("after %s, want %s at least", now.Sub(last), pause)
				}
				last = now
				s = s.After(IssueStarted{}, now)
				s.issuing = false
				count++
				notBefore, notAfter := test.life(now)
				s.published = &Published{
					Set: Set{Serial: "01", NotBefore: notBefore, NotAfter: notAfter, Digest: s.desired.Digest, Renew: s.desired.Renew}, readableFrom: now, Confirmed: true,
				}
			}
			if count > test.most+1 {
				t.Errorf("%d certificates in %d s, want %d at most", count, seconds, test.most+1)
			}
		})
	}
}

func lives(life time.Duration) func(time.Time) (time.Time, time.Time) {
	return func(now time.Time) (time.Time, time.Time) { return now, now.Add(life) }
}

// A person who asks for a renewal gets it at once, just after another as well.
func TestNextDoesNotDelayRequests(t *testing.T) {
	t.Parallel()
	s := State{desired: specified(), published: inUse(), config: Config{WorkloadTTL: day}}
	for i := range requestBurst {
		now := start.Add(time.Duration(i) * time.Second)
		s.desired.Renew, s.desired.seenAt = now.String(), now
		if step := Next(s, now); step.Action != Issue || step.Reason != RenewRequested {
			t.Fatalf("request %d: %+v", i, step)
		}
		s = s.After(IssueStarted{}, now)
		s.issuing = false
		s.published.Renew, s.published.readableFrom = s.desired.Renew, now
	}
	// What is asked for does not put off the renewal in time.
	s.published.NotBefore, s.published.NotAfter = start, start.Add(20*time.Second)
	now := start.Add(19 * time.Second)
	if step := Next(s, now); step.Action != Issue || step.Reason != Expiring {
		t.Errorf("%+v", step)
	}
}

// Whatever the state: an action that is put off is due when its time comes, so the agent neither spins nor sleeps through.
func FuzzNextWaitsForAnAction(f *testing.F) {
	f.Add(int64(100), int64(90), 0.1, uint8(0), uint8(0), false, false, int64(5))
	f.Add(int64(1), int64(0), 0.5, uint8(3), uint8(9), true, true, int64(0))
	f.Fuzz(func(t *testing.T, lifeHours, ageHours int64, ratio float64, failures, confirmations uint8, confirmed, lost bool, changedMinutes int64) {
		if lifeHours <= 0 || lifeHours > 1e6 || ageHours < 0 || ageHours > 1e6 || !(ratio > 0 && ratio < 1) || changedMinutes < 0 || changedMinutes > 1e6 {
			t.Skip()
		}
		now := start.Add(time.Duration(ageHours) * time.Hour)
		s := State{desired: specified(), published: inUse(), config: Config{WorkloadTTL: day}, failures: int(failures), failedAt: now}
		s.desired.Ratio = ratio
		s.published.NotAfter = start.Add(time.Duration(lifeHours) * time.Hour)
		s.published.Confirmed, s.published.Lost, s.published.confirmations, s.published.askedAt = confirmed, lost, int(confirmations), now
		if changedMinutes > 0 {
			s.desired.Digest, s.desired.seenAt = "b", now.Add(-time.Duration(changedMinutes)*time.Minute)
		}
		step := Next(s, now)
		if step.Action != Wait {
			return
		}
		if !step.Until.After(now) {
			t.Fatalf("told to wait until %s, which is not after %s", step.Until, now)
		}
		if at := Next(s, step.Until); at.Action == Wait {
			t.Fatalf("told to wait until %s and then still to wait: %+v", step.Until, at)
		}
	})
}
