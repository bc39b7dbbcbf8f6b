// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"
)

// rounds in which the handlers take turns; one before them warms up.
const rounds = 15

// load is what the handlers are measured with, by name.
type load struct {
	name     string
	review   func(reviews) []byte
	parallel int
	requests int // in each round
}

var loads = []load{
	{"istio 1.31's Deployment, 1 in parallel", func(r reviews) []byte { return r.istiod }, 1, 150},
	{"istio 1.31's Deployment, 16 in parallel", func(r reviews) []byte { return r.istiod }, 16, 480},
	{"150 environment variables", func(r reviews) []byte { return r.env150 }, 1, 60},
	{"1,500 environment variables", func(r reviews) []byte { return r.env1500 }, 1, 20},
}

var handlers = []string{"floor", "usual", "ours"}

// times are medians, by load and handler.
type times map[string]map[string]time.Duration

// timeResults holds the medians to their bounds.
func timeResults(found times) []result {
	var results []result
	for _, b := range []struct {
		load         load
		floor, usual float64
	}{{loads[0], 1.3, 2.5}, {loads[1], 1.3, 4}, {loads[3], 1.5, 4}} {
		floor, usual, ours := found[b.load.name]["floor"], found[b.load.name]["usual"], found[b.load.name]["ours"]
		results = append(results,
			ratio(b.load.name+": usual / floor", usual, floor, 0),
			ratio(b.load.name+": ours / floor", ours, floor, b.floor),
			faster(b.load.name+": usual / ours", usual, ours, b.usual))
	}
	small, large := found[loads[2].name]["ours"], found[loads[3].name]["ours"]
	return append(results, ratio("1,500 environment variables: ours / ours at 150", large, small, 11))
}

func inMilliseconds(d time.Duration) string {
	return fmt.Sprintf("%.3f ms", float64(d.Microseconds())/1000)
}

// measureTimes serves the three handlers and asks them in turn.
func measureTimes(ctx context.Context, r reviews) (_ times, err error) {
	clients, stop, err := serveAll(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()

	all := map[string]map[string][]time.Duration{}
	for _, l := range loads {
		all[l.name] = map[string][]time.Duration{}
		for _, name := range handlers {
			if err := clients[name].check(ctx, l.review(r), name != "floor"); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", name, l.name, err)
			}
		}
	}
	for round := range rounds + 1 {
		for _, l := range loads {
			for i := range handlers {
				name := handlers[(i+round)%len(handlers)]
				runtime.GC() // nobody pays for what another left behind
				took, err := clients[name].load(ctx, l.review(r), l.requests, l.parallel)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", name, l.name, err)
				}
				if round > 0 {
					all[l.name][name] = append(all[l.name][name], took...)
				}
			}
		}
	}
	return medians(all), nil
}

func medians(all map[string]map[string][]time.Duration) times {
	found := times{}
	for load, byHandler := range all {
		found[load] = map[string]time.Duration{}
		for handler, took := range byHandler {
			slices.Sort(took)
			found[load][handler] = took[len(took)/2]
		}
	}
	return found
}
