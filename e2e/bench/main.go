// SPDX-License-Identifier: Apache-2.0

// Command bench measures the webhook's time and memory against bounds, in one
// run: time as ratios to a controller-runtime handler that does nothing (the
// floor) and to one written in the usual way, all served alike; memory and size
// of the program as it is shipped, before a real API server. It exits 1 when
// anything is over its bound.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "serve" {
		exitOn(serve(os.Args[2]))
		return
	}
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

	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nMEASURE\tFOUND\t\tBOUND\t")
	for _, r := range append(timeResults(times), footprint...) {
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
	limit   float64
	least   bool // limit is the least that found may be, not the most
	value   string
	how     string // what found was calculated from
	unit    string
}

// ratio compares two values; it must be at most the limit.
func ratio(measure string, a, b, limit float64, how string) result {
	return result{measure: measure, found: a / b, limit: limit, value: fmt.Sprintf("%.2f", a/b), how: how}
}

// times says how much faster ours is: the ratio must be at least the limit.
func faster(measure string, theirs, ours, limit float64, how string) result {
	r := ratio(measure, theirs, ours, limit, how)
	r.least = true
	return r
}

func (r result) ok() bool { return r.found <= r.limit != r.least || r.found == r.limit }

func (r result) bound() string {
	sign := "≤"
	if r.least {
		sign = "≥"
	}
	return fmt.Sprintf("%s %g%s", sign, r.limit, r.unit)
}

func (r result) verdict() string {
	if r.ok() {
		return "ok"
	}
	return "OVER"
}
