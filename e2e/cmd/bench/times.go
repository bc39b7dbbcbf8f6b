// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

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
	object := "istio 1.31's Deployment"
	if l.variables > 0 {
		object = fmt.Sprintf("with %d more variables", l.variables)
	}
	return fmt.Sprintf("%s, %d in parallel", object, l.parallel)
}

var (
	small, smallMany = load{0, 1, 500}, load{0, 16, 2000}
	medium           = load{150, 1, 250}
	large, largeMany = load{1500, 1, 100}, load{1500, 16, 200}
	loads            = []load{small, smallMany, medium, large, largeMany}
)

// server is a process that answers admission reviews, alone on a processor.
type server struct {
	name string
	pid  int
	*client
}

// startFloors starts the servers that the webhook is compared with.
func startFloors(ctx context.Context, dir string, cpu int) (servers []server, stop func() error, err error) {
	var started []*process.Process
	stop = func() (err error) {
		for _, each := range started {
			err = errors.Join(err, each.Kill())
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
		var crt, address []byte
		if err := floor.WaitUntil(ctx, "it serves", func(context.Context) error {
			crt, err = os.ReadFile(filepath.Join(own, "tls.crt"))
			if err == nil {
				address, err = os.ReadFile(filepath.Join(own, "address"))
			}
			return err
		}); err != nil {
			return nil, stop, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(crt)
		servers = append(servers, server{name, floor.PID(), newClient(string(address), roots)})
	}
	return servers, stop, nil
}

const (
	rounds = 3 // in each of which every server has its turn
	// undisturbed is the most of a turn that the server and the generator may have waited for a processor: what is measured while
	// other programs take more than that is measured again, so many times.
	undisturbed, attempts = 0.1, 1
)

// times are medians over the rounds, by load and server: of a request's time with one in parallel, else of the requests per second.
type times map[load]map[string]float64

// measureTimes asks the servers in turn.
func measureTimes(ctx context.Context, r reviews, servers []server) (times, error) {
	all := map[load]map[string][]float64{}
	for _, l := range loads {
		all[l] = map[string][]float64{}
		for _, s := range servers {
			if err := s.check(ctx, r[l.variables], s.name == "ours" || s.name == "usual"); err != nil && s.name != "bare" {
				return nil, fmt.Errorf("%s, %s: %w", s.name, l, err)
			}
			if _, err := s.load(ctx, r[l.variables], l); err != nil { // to warm up
				return nil, err
			}
		}
	}
	disturbed := 0
	for range rounds {
		for _, l := range loads {
			for _, s := range servers {
				found, share, err := turn(ctx, r[l.variables], l, s)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", s.name, l, err)
				}
				if share > undisturbed {
					disturbed++
				}
				all[l][s.name] = append(all[l][s.name], found)
			}
		}
	}
	if disturbed > 0 {
		fmt.Printf("  Other programs kept this machine busy: %d of %d turns are disturbed. The figures are of less use.\n", disturbed, rounds*len(loads)*len(servers))
	}
	found := times{}
	for l, byServer := range all {
		found[l] = map[string]float64{}
		for name, each := range byServer {
			slices.Sort(each)
			found[l][name] = each[len(each)/2]
		}
	}
	return found, nil
}

// turn measures one server once, and again while others disturb it. It gives the least disturbed attempt, and how much that was.
func turn(ctx context.Context, review []byte, l load, s server) (found, share float64, err error) {
	share = math.Inf(1)
	for range attempts {
		before, err := waited(s.pid, os.Getpid())
		if err != nil {
			return 0, 0, err
		}
		start := time.Now()
		one, err := s.load(ctx, review, l)
		if err != nil {
			return 0, 0, err
		}
		took := time.Since(start)
		after, err := waited(s.pid, os.Getpid())
		if err != nil {
			return 0, 0, err
		}
		if of := (after - before).Seconds() / took.Seconds(); of < share {
			found, share = one, of
		}
		if share <= undisturbed {
			break
		}
	}
	return found, share, nil
}

// timeResults holds the medians to their bounds.
func timeResults(found times) (results []result) {
	for _, b := range []struct {
		load         load
		floor, usual float64
	}{{small, 1.25, 2.5}, {smallMany, 0.9, 4}, {large, 0.75, 4}, {largeMany, 1.2, 4}} {
		figures := found[b.load]
		line := func(measure, server string, bound, of float64, least bool) result {
			unit, how := "ms", "%.3f / %.3f ms"
			if b.load.parallel > 1 {
				unit, how = "requests/s", "%.0f / %.0f requests/s"
			}
			_ = unit
			return result{
				measure: b.load.String() + ": " + measure, found: figures[server] / of, limit: bound, least: least,
				value: fmt.Sprintf("%.2f", figures[server]/of), how: fmt.Sprintf(how, figures[server], of),
			}
		}
		many := b.load.parallel > 1
		results = append(results, line("bare net/http / floor", "bare", 0, figures["floor"], many),
			line("ours / floor", "ours", b.floor, figures["floor"], many))
		if many {
			results = append(results, line("ours / usual", "ours", b.usual, figures["usual"], true))
		} else {
			results = append(results, line("usual / ours", "usual", b.usual, figures["ours"], true))
		}
	}
	ratio := found[large]["ours"] / found[medium]["ours"]
	return append(results, result{
		measure: "1,500 more variables / 150 more", found: ratio, limit: 11, value: fmt.Sprintf("%.2f", ratio),
		how: fmt.Sprintf("%.3f / %.3f ms", found[large]["ours"], found[medium]["ours"]),
	})
}
