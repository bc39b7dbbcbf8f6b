// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// world is what surrounds a machine: it decides what happens next, and holds the machine to what must always be true.
type world struct {
	*testing.T
	random *rand.Rand
	now    time.Time
	state  State
	serial int
	// unhindered are the starts of attempts that no failure delayed, but those that were due in time.
	unhindered []time.Time
}

func (w *world) chance(oneIn int) bool { return w.random.IntN(oneIn) == 0 }

func (w *world) set(lifetime time.Duration) Set {
	w.serial++
	specification, _ := w.state.Specified()
	root := fmt.Sprint("root", w.random.IntN(2))
	return Set{
		Serial: fmt.Sprint(w.serial), NotBefore: w.now, NotAfter: w.now.Add(lifetime),
		Digest: specification.Digest, Renew: specification.Renew, Root: root, Roots: []string{root},
	}
}

// lifetime is long enough that the pause between publications is a minute.
func (w *world) lifetime() time.Duration {
	return 10*time.Minute + time.Duration(w.random.Int64N(int64(100*day)))
}

func (w *world) failure() IssueFailed {
	return IssueFailed{Failure: Failure(w.random.IntN(3)), Root: []string{"", "root0"}[w.random.IntN(2)]}
}

// foreign is an event that others cause, whatever the machine does.
func (w *world) foreign() Event {
	switch w.random.IntN(6) {
	case 0, 1:
		return Specified{Specification{
			Digest: fmt.Sprint("digest", w.random.IntN(3)), Renew: []string{"", "once", "twice", fmt.Sprint(w.now)}[w.random.IntN(4)],
			Ratio: []float64{0.1, 0.9}[w.random.IntN(2)], Token: w.chance(2),
		}}
	case 2:
		return RootsSpecified{[][]string{nil, {"root0"}, {"root0", "root1"}, {"root1", "root0"}}[w.random.IntN(4)]}
	case 3:
		return StartConditionsChanged{}
	default:
		return FilesChecked{Intact: w.chance(2)}
	}
}

// any is an event that fits the state or not.
func (w *world) any() Event {
	return []Event{
		w.foreign(), w.foreign(),
		SetFound{w.set(w.lifetime())},
		IssueStarted{},
		SetPublished{w.set(w.lifetime()), Initial},
		w.failure(),
		RootsPublished{w.set(w.lifetime())},
		RootsRefused{},
		RootsDelayed{},
		Confirmed{},
		NotConfirmed{Other: w.chance(2)},
		Republished{},
		TokenChecked{w.now.Add(time.Hour)},
	}[w.random.IntN(13)]
}

// after applies an event, which changes no other state and publishes nothing unless that is what it says.
func (w *world) after(event Event) {
	w.Helper()
	before, copied := w.state, w.state
	if before.desired != nil {
		d := *before.desired
		d.roots = slices.Clone(d.roots)
		copied.desired = &d
	}
	copied.published = before.Published()
	w.state = before.After(event, w.now)
	if !reflect.DeepEqual(before, copied) {
		w.Fatalf("%T changed a state in place", event)
	}
	if got := before.After(event, w.now); !reflect.DeepEqual(got, w.state) {
		w.Fatalf("%T leads to two states", event)
	}
	switch event.(type) {
	case SetFound, SetPublished, RootsPublished:
	default:
		if a, b := before.Published(), w.state.Published(); (a == nil) != (b == nil) || a != nil && !reflect.DeepEqual(a.Set, b.Set) {
			w.Fatalf("%T changes what is published from %+v to %+v", event, a, b)
		}
	}
}

// next returns the next step, which is never another issue during one and never a wait without an end.
func (w *world) next() Step {
	w.Helper()
	step := Next(w.state, w.now)
	if again := Next(w.state, w.now); again != step {
		w.Fatalf("the next step is both %+v and %+v", step, again)
	}
	if w.state.issuing && step.Action != Wait {
		w.Fatalf("%+v while a certificate is issued", step)
	}
	if step.Action == Wait {
		if pause := step.Pause(w.now); pause <= 0 || pause > PollInterval {
			w.Fatalf("a wait of %s: %+v", pause, step)
		}
		if _, found := w.state.Specified(); found && !w.state.issuing {
			if step.Until.IsZero() {
				w.Fatalf("a wait without an end: %+v", w.state)
			}
			if then := Next(w.state, step.Until); then.Action == Wait {
				w.Fatalf("a wait until %s, and then another: %+v", step.Until, then)
			}
		}
	}
	return step
}

// issue starts an attempt, which comes neither sooner than the backoff nor more often than the pace allows.
func (w *world) issue(reason Reason) {
	w.Helper()
	p := w.state.published
	switch {
	case w.state.failures > 0:
		limit := min(retryLimit, firstRetry<<min(w.state.failures-1, 20))
		if w.state.failure == RootAwaited {
			limit = rootAwaitedRetry
		}
		if since := w.now.Sub(w.state.failedAt); since < limit/2 {
			w.Fatalf("tried again %s after failure %d, want at least %s", since, w.state.failures, limit/2)
		}
	case reason == Expiring:
		if since := w.now.Sub(p.readableFrom); since < longestPause {
			w.Fatalf("renewed %s after the last time", since)
		}
	default:
		w.unhindered = append(w.unhindered, w.now)
		if n := len(w.unhindered); n > requestBurst {
			if took := w.now.Sub(w.unhindered[n-1-requestBurst]); took < longestPause {
				w.Fatalf("%d issues within %s", requestBurst+1, took)
			}
		}
	}
	w.after(IssueStarted{})
}

// wait lets time pass: to the end of a step's wait, or to an earlier event.
func (w *world) wait(step Step) {
	pause := step.Pause(w.now)
	if w.chance(3) {
		pause = time.Duration(w.random.Int64N(int64(pause))) + 1
	}
	if !step.Until.IsZero() && w.chance(4) {
		pause = max(pause, step.Until.Sub(w.now)) // months, at once
	}
	w.now = w.now.Add(pause)
}

// act performs a step, with any result.
func (w *world) act(step Step) {
	w.Helper()
	switch step.Action {
	case Wait:
		w.wait(step)
	case Issue:
		w.issue(step.Reason)
		for range w.random.IntN(3) { // others do not wait for the CA
			w.now = w.now.Add(time.Duration(w.random.Int64N(int64(10 * time.Second))))
			w.after(w.foreign())
			w.next()
		}
		if w.chance(2) {
			w.after(w.failure())
		} else {
			w.after(SetPublished{w.set(w.lifetime()), step.Reason})
		}
		if w.state.issuing {
			w.Fatal("an attempt that has ended goes on")
		}
	case Confirm:
		w.after([]Event{Confirmed{}, NotConfirmed{}, NotConfirmed{Other: true}}[w.random.IntN(3)])
	case Republish:
		w.after(Republished{})
	case PublishRoots:
		set := w.state.Published().Set
		if set.Roots = w.state.desired.roots; len(set.Roots) == 0 {
			set.Roots = []string{set.Root}
		}
		w.after([]Event{RootsPublished{set}, RootsRefused{}, RootsDelayed{}}[w.random.IntN(3)])
	case CheckToken:
		w.after(TokenChecked{w.now.Add(time.Minute)})
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	random := rand.New(rand.NewPCG(seed, 0))
	return &world{T: t, random: random, now: start, state: New(Config{Seed: fmt.Sprint(seed), WorkloadTTL: day, KeepToken: seed%2 == 0})}
}

// Whatever others do, and however each step ends.
func TestInvariantsOfRuns(t *testing.T) {
	t.Parallel()
	for seed := range uint64(500) {
		w := newWorld(t, seed)
		idle := 0
		for range 300 {
			if w.chance(4) {
				w.after(w.foreign())
			}
			step := w.next()
			w.act(step)
			if idle++; step.Action == Wait {
				idle = 0
			}
			if idle > 20 {
				t.Fatalf("seed %d: %d steps without a wait, the last is %+v", seed, idle, step)
			}
		}
	}
}

// Events in any order, also such as no agent has.
func FuzzInvariants(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		w := newWorld(t, seed)
		for range 200 {
			w.after(w.any())
			w.wait(w.next())
		}
	})
}
