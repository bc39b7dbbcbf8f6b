// SPDX-License-Identifier: Apache-2.0

// Command bench measures time and memory against bounds, in one run. Of the
// webhook: time as ratios to a controller-runtime handler that does nothing (the
// floor) and to one written in the usual way, all served alike; memory and size
// of the program as it is shipped, before a real API server. Of the agent: what
// it adds to Vault's own time, what it takes at rest, and what a large fleet of
// agents asks of one Vault in a year, by the agent's own schedule on a clock of
// its own. It exits 1 when anything is over its bound.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	over, err := run(ctx)
	exitOn(err)
	if over > 0 {
		exitOn(fmt.Errorf("%d over their bounds", over))
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures everything and prints the table; over counts what is too much.
func run(ctx context.Context) (over int, err error) {
	fmt.Println("Measuring memory: the webhook before a real API server, 20,000 admissions at 16 in parallel ...")
	reviews, footprint, err := measureProgram(ctx)
	if err != nil {
		return 0, err
	}
	fmt.Println("Measuring time: three handlers in rounds, so that what else this machine does falls on each alike ...")
	times, err := measureTimes(ctx, reviews)
	if err != nil {
		return 0, err
	}

	fmt.Println("Measuring the agent: before a real API server, Vault and istiod ...")
	agent, err := measureAgent(ctx)
	if err != nil {
		return 0, err
	}

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nMEASURE\tFOUND\t\tBOUND\t")
	for _, r := range slices.Concat(timeResults(times), footprint, agent) {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.measure, r.value, r.how, r.bound(), r.verdict())
		if !r.ok() {
			over++
		}
	}
	return over, table.Flush()
}

// result is one line of the table.
type result struct {
	measure string
	found   float64
	limit   float64 // 0 for what is only told
	least   bool    // limit is the least that found may be, not the most
	value   string
	how     string // what found was calculated from
	unit    string
}

// ratio of two times, which must be at most the limit, if any.
func ratio(measure string, a, b time.Duration, limit float64) result {
	found := a.Seconds() / b.Seconds()
	return result{
		measure: measure, found: found, limit: limit,
		value: fmt.Sprintf("%.2f", found), how: inMilliseconds(a) + " / " + inMilliseconds(b),
	}
}

// faster is a ratio that must be at least the limit.
func faster(measure string, theirs, ours time.Duration, limit float64) result {
	r := ratio(measure, theirs, ours, limit)
	r.least = true
	return r
}

func (r result) ok() bool {
	if r.least {
		return r.found >= r.limit
	}
	return r.found <= r.limit || r.limit == 0
}

func (r result) bound() string {
	if r.limit == 0 {
		return ""
	}
	sign := "≤"
	if r.least {
		sign = "≥"
	}
	return fmt.Sprintf("%s %g%s", sign, r.limit, r.unit)
}

func (r result) verdict() string {
	switch {
	case r.limit == 0:
		return ""
	case r.ok():
		return "ok"
	default:
		return "OVER"
	}
}
