// SPDX-License-Identifier: Apache-2.0

package main

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/machine"
)

// The simulated fleet: its replicas' real schedule, on a clock of its own.
const (
	replicas    = 1000 * 3
	workloadTTL = 24 * time.Hour
	year        = 365 * 24 * time.Hour
	// The first signatures, which all want at once, are over.
	settledAfter = 30 * time.Minute
	// The default of Vault's mounts: renewals are ten times as frequent as with 365 days.
	lifetime = 768 * time.Hour
)

// scenario is what happens to the fleet in a year.
type scenario struct {
	outage  [2]time.Duration // since the beginning
	changed time.Duration    // when all see another specification, 0 for never
	from    time.Duration    // signatures before this are not counted
	takes   time.Duration    // how long the CA takes for one
}

// outcome is what a year came to.
type outcome struct {
	perMinute int           // the most signatures in any minute, from the time that is counted
	atATime   int           // the most requests that the CA has at a time, likewise
	signed    int           // all signatures
	closest   time.Duration // the least time that any certificate had left when it was replaced
}

// simulate drives machine.Next for each replica through a year. Vault answers at once, except in the outage.
func simulate(s scenario) outcome {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(1, 2)) // the same fleet in each run
	var queue wakes
	specified := func(digest string) machine.Specified {
		return machine.Specified{Specification: machine.Specification{Digest: digest, Ratio: 0.1}}
	}
	states := make([]machine.State, replicas)
	for i := range states {
		at := begin.Add(time.Duration(random.Int64N(int64(time.Minute))))
		config := machine.Config{Seed: fmt.Sprintf("istio-system/istiod-%d", i), WorkloadTTL: workloadTTL}
		states[i] = machine.New(config).After(specified("first"), at)
		queue = append(queue, wake{at, i})
		if s.changed > 0 {
			queue = append(queue, wake{begin.Add(s.changed), i})
		}
	}
	heap.Init(&queue)

	result := outcome{closest: lifetime}
	minutes := map[int]int{}
	var open []time.Duration // the beginnings of the requests that the CA has
	for queue.Len() > 0 {
		next := heap.Pop(&queue).(wake)
		now, state := next.at, &states[next.replica]
		since := now.Sub(begin)
		if since > year {
			break
		}
		digest := "first"
		if s.changed > 0 && since >= s.changed {
			digest = "second"
			*state = state.After(specified(digest), now)
		}
		switch step := machine.Next(*state, now); {
		case step.Action == machine.Wait:
			if !step.Until.IsZero() {
				heap.Push(&queue, wake{step.Until, next.replica})
			}
			continue
		case step.Action == machine.Confirm:
			*state = state.After(machine.Confirmed{}, now)
		case since >= s.outage[0] && since < s.outage[1]:
			*state = state.After(machine.IssueStarted{}, now).After(machine.IssueFailed{}, now)
		default:
			if published := state.Published(); published != nil {
				result.closest = min(result.closest, published.NotAfter.Sub(now))
			}
			result.signed++
			if since >= s.from {
				minute := int(since / time.Minute)
				minutes[minute]++
				result.perMinute = max(result.perMinute, minutes[minute])
				open = append(slices.DeleteFunc(open, func(begun time.Duration) bool { return begun+s.takes <= since }), since)
				result.atATime = max(result.atATime, len(open))
			}
			*state = state.After(machine.IssueStarted{}, now).After(machine.SetPublished{Reason: step.Reason, Set: machine.Set{
				Serial: fmt.Sprintf("%x", random.Uint64()), NotBefore: now, NotAfter: now.Add(lifetime), Digest: digest,
			}}, now)
		}
		heap.Push(&queue, wake{now, next.replica})
	}
	return result
}

type wake struct {
	at      time.Time
	replica int
}

type wakes []wake

func (w *wakes) Len() int           { return len(*w) }
func (w *wakes) Less(i, j int) bool { return (*w)[i].at.Before((*w)[j].at) }
func (w *wakes) Swap(i, j int)      { (*w)[i], (*w)[j] = (*w)[j], (*w)[i] }
func (w *wakes) Push(x any)         { *w = append(*w, x.(wake)) }
func (w *wakes) Pop() any {
	last := len(*w) - 1
	x := (*w)[last]
	*w = (*w)[:last]
	return x
}

// fleetResults holds the fleet to a part of what one Vault can sign.
func fleetResults(signsPerSecond float64) []result {
	// An outage when most renewals fall due, in the first round of them.
	worst := 27 * 24 * time.Hour
	ordinary := simulate(scenario{from: settledAfter})
	outage := simulate(scenario{from: settledAfter, outage: [2]time.Duration{worst, worst + time.Hour}})
	change := simulate(scenario{from: settledAfter, changed: worst})
	rate := signsPerSecond * 60
	share := func(measure string, o outcome, limit float64) result {
		found := 100 * float64(o.perMinute) / rate
		return result{
			measure: measure, found: found, limit: limit, value: fmt.Sprintf("%.2f %%", found), unit: " %",
			how: fmt.Sprintf("%d in the busiest minute / %.0f that Vault can sign; %d in the year", o.perMinute, rate, o.signed),
		}
	}
	closest := min(ordinary.closest, outage.closest, change.closest)
	return []result{
		share("3,000 replicas in a year, all started in one minute: of Vault's signing rate", ordinary, 1),
		share("after an hour without Vault", outage, 50),
		share("when all see another specification at once", change, 50),
		{
			measure: "least time left to any certificate in these years, in workload TTLs", found: closest.Hours() / workloadTTL.Hours(),
			limit: 1, least: true, value: fmt.Sprintf("%.2f", closest.Hours()/workloadTTL.Hours()), how: closest.Round(time.Minute).String(),
		},
	}
}
