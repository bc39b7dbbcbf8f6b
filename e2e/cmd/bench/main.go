// SPDX-License-Identifier: Apache-2.0

// Command bench measures the shipped programs, as processes, against bounds, and
// exits 1 when a bound is passed:
//
//   - webhook: its memory and size before a real API server; its times, as ratios to
//     those of three other servers (package floor), each alone on one processor;
//   - admission: how long a client waits for istiod's creation and change with nothing
//     installed, with the policy and with the webhook, and what the policy costs;
//   - floods: admissions while strangers flood the webhook;
//   - agent: the time that it adds to Vault's, its memory at rest, and how often a large
//     fleet asks one Vault in a year, by the agent's schedule on a clock of its own;
//   - cert-manager: the time that the agent adds to an issuer's, its memory at rest, and how many
//     CertificateRequests a large fleet has at a time;
//   - controllers: a cluster of a large fleet, from a cold start and at rest;
//   - contexts: the plugin's status and check for many contexts.
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

// section is a part of the benchmark.
type section struct {
	name, title string
	measure     func(context.Context) ([]result, error)
}

// sections are all, in the order in which they run.
var sections = []section{
	{"webhook", `Measuring the webhook before a real API server: its memory, then its times beside those of three other servers:
  bare   net/http alone, which reads the review and sends one fixed answer
  floor  controller-runtime with a handler that does nothing
  usual  controller-runtime with a handler that decodes the object and computes the patch by comparison`, measureWebhook},
	{"admission", "Measuring how long the API server's client waits: with nothing installed, the policy and the webhook, in turn ...", measureAdmission},
	{"floods", "Measuring admissions while strangers flood the webhook, in 256 MiB of memory ...", measureFloods},
	{"agent", "Measuring the agent: before a real API server, Vault and istiod ...", measureAgent},
	{"cert-manager", "Measuring the agent before a real API server, cert-manager and istiod ...", measureCertManager},
	{"controllers", "Measuring the controllers: 1,000 VirtualMeshes, 3,000 IssuedCertificates and 300 istiods in a real API server; five minutes of it are quiet ...", measureControllers},
	{"contexts", "Measuring the plugin for 100 contexts, all of one API server ...", measureContexts},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == attacker {
		exitOn(runAttacker(ctx, os.Args[2:]))
		return
	}
	chosen, err := choose(os.Args[1:])
	exitOn(err)
	over, err := run(ctx, chosen)
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

// choose gives the sections of these names, or all.
func choose(names []string) ([]section, error) {
	if len(names) == 0 {
		return sections, nil
	}
	var chosen []section
	for _, name := range names {
		i := slices.IndexFunc(sections, func(s section) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no section %q; there are webhook, admission, floods, agent, cert-manager, controllers and contexts", name)
		}
		chosen = append(chosen, sections[i])
	}
	return chosen, nil
}

// run measures sections and prints the table; over counts the exceeded bounds.
func run(ctx context.Context, chosen []section) (over int, err error) {
	var all []result
	for _, section := range chosen {
		fmt.Println(section.title)
		found, err := section.measure(ctx)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", section.name, err)
		}
		all = append(all, found...)
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nMEASURE\tFOUND\t\tBOUND\t")
	for _, r := range all {
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
	limit   float64 // 0 for none: the figure is for information
	none    bool    // found must be 0
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

func (r result) ok() bool {
	if r.limit == 0 && !r.none {
		return true
	}
	if r.least {
		return r.found >= r.limit
	}
	return r.found <= r.limit || r.limit == 0 && !r.none
}

func (r result) bound() string {
	if r.limit == 0 && !r.none {
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
	case r.limit == 0 && !r.none:
		return ""
	case r.ok():
		return "ok"
	default:
		return "OVER"
	}
}

func inMilliseconds(d time.Duration) string {
	return fmt.Sprintf("%.3f ms", float64(d.Microseconds())/1000)
}
