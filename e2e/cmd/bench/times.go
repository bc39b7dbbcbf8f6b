// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// load is one way to ask a server.
type load struct {
	variables int // that istiod has more than Istio's chart gives it
	parallel  int
	requests  int // in each round
}

func (l load) String() string {
	object := "an istiod of Istio 1.31"
	if l.variables > 0 {
		object = fmt.Sprintf("with %d more variables", l.variables)
	}
	return fmt.Sprintf("%s, %d in parallel", object, l.parallel)
}

var (
	small, smallMany = load{0, 1, 300}, load{0, 16, 1600}
	medium           = load{150, 1, 150}
	large, largeMany = load{1500, 1, 60}, load{1500, 16, 160}
	loads            = []load{small, smallMany, medium, large, largeMany}
)

// server is a process that answers admission reviews, alone on a processor.
type server struct {
	name string
	*client
}

const webhookName = "webhook"

// startFloors starts the servers that the webhook is compared with, each on the same processor.
func startFloors(ctx context.Context, dir string, cpu int) (servers []server, stop func() error, err error) {
	var started []*process.Process
	stop = func() (err error) {
		for _, floor := range started {
			err = errors.Join(err, floor.Kill())
		}
		return err
	}
	program, err := built.Floor(ctx)
	if err != nil {
		return nil, stop, err
	}
	for _, name := range []string{"bare", "floor", "usual"} {
		own := filepath.Join(dir, name)
		if err := os.Mkdir(own, 0o700); err != nil {
			return nil, stop, err
		}
		floor, err := process.Start(name, exec.Command("taskset", "-c", strconv.Itoa(cpu), program, name, own))
		if err != nil {
			return nil, stop, err
		}
		started = append(started, floor)
		var address []byte
		if err := floor.WaitUntil(ctx, "it serves", func(context.Context) (err error) {
			address, err = os.ReadFile(filepath.Join(own, "address")) // the last thing that it writes
			return err
		}); err != nil {
			return nil, stop, err
		}
		crt, err := os.ReadFile(filepath.Join(own, "tls.crt"))
		if err != nil {
			return nil, stop, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(crt)
		servers = append(servers, server{name, newClient(string(address), roots)})
	}
	return servers, stop, nil
}

// figures are medians, by load and server: of the time of a request with one in parallel, else of the requests per second.
type figures map[load]map[string]float64

// measureTimes asks the servers in turn, in three rounds. When a bound is passed, it may be that other programs disturbed these
// rounds: it measures three more, twice at most, and gives the medians of all.
func measureTimes(ctx context.Context, r reviews, servers []server) ([]result, error) {
	const rounds, attempts = 3, 3
	all := map[load]map[string][]float64{}
	for _, l := range loads {
		all[l] = map[string][]float64{}
		for _, s := range servers { // the first request opens the connection, the others warm up
			if err := s.check(ctx, r[l.variables], s.name == webhookName || s.name == "usual"); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", s.name, l, err)
			}
			if _, err := s.load(ctx, r[l.variables], l); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", s.name, l, err)
			}
		}
	}
	for attempt := 1; ; attempt++ {
		for range rounds {
			for _, l := range loads {
				for _, s := range servers {
					found, err := s.load(ctx, r[l.variables], l)
					if err != nil {
						return nil, fmt.Errorf("%s, %s: %w", s.name, l, err)
					}
					all[l][s.name] = append(all[l][s.name], found)
				}
			}
		}
		found := figures{}
		for l, byServer := range all {
			found[l] = map[string]float64{}
			for name, values := range byServer {
				found[l][name] = median(values)
			}
		}
		results := timeResults(found)
		i := slices.IndexFunc(results, func(r result) bool { return !r.ok() })
		if i < 0 || attempt == attempts {
			return results, nil
		}
		fmt.Printf("  %s: %s is over its bound after %d rounds; measuring %d more ...\n", results[i].measure, results[i].value, attempt*rounds, rounds)
	}
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// timeResults holds the medians to their bounds.
func timeResults(found figures) (results []result) {
	compare := func(l load, a, b string, bound float64, least bool) {
		how := "%.3f / %.3f ms"
		if l.parallel > 1 {
			how = "%.0f / %.0f per second"
		}
		ratio := found[l][a] / found[l][b]
		results = append(results, result{
			measure: l.String() + ": " + a + " / " + b, found: ratio, limit: bound, least: least,
			value: fmt.Sprintf("%.2f", ratio), how: fmt.Sprintf(how, found[l][a], found[l][b]),
		})
	}
	for _, l := range []struct {
		load                load
		ofFloor, timesUsual float64
	}{{small, 1.25, 2.5}, {smallMany, 0.9, 4}, {large, 0.75, 4}, {largeMany, 1.2, 4}} {
		compare(l.load, "bare", "floor", 0, false)
		compare(l.load, webhookName, "floor", l.ofFloor, l.load.parallel > 1)
		if l.load.parallel > 1 {
			compare(l.load, webhookName, "usual", l.timesUsual, true)
		} else {
			compare(l.load, "usual", webhookName, l.timesUsual, true)
		}
	}
	long, short := found[large][webhookName], found[medium][webhookName]
	return append(results, result{
		measure: "time of the webhook with 1500 more variables / with 150", found: long / short, limit: 11,
		value: fmt.Sprintf("%.2f", long/short), how: fmt.Sprintf("%.3f / %.3f ms", long, short),
	})
}
