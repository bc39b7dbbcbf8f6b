// SPDX-License-Identifier: Apache-2.0

// Package traffic proves by real calls that two clusters are one mesh.
package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/istiod-agent/istiod-agent/traffic/proxyless"
)

// loadVariable holds the loadOptions of a process that is a client under load in place of a test.
const loadVariable = "ISTIOD_AGENT_TRAFFIC_LOAD"

// loadOptions of a client that calls without pause.
type loadOptions struct {
	Identity proxyless.Options
	// Service is HOST:PORT in the mesh.
	Service string
	// Interval between two calls.
	Interval time.Duration
	// PerConnection is the number of calls before the client closes its connections, and so does its next handshakes.
	PerConnection int
}

// loadReport counts calls. The process writes one in each line of its standard output.
type loadReport struct {
	Connections int
	// By counts the answers of each server.
	By map[string]int
	// Failures are the errors of the calls that failed.
	Failures []string
}

func (r loadReport) calls() (sum int) {
	for _, count := range r.By {
		sum += count
	}
	return sum + len(r.Failures)
}

// loadMain runs the load until a signal ends it.
func loadMain(text string) error {
	var options loadOptions
	if err := json.Unmarshal([]byte(text), &options); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	identity, err := proxyless.Obtain(ctx, options.Identity)
	if err != nil {
		return err
	}
	identity.Register()
	go identity.Keep(ctx)

	// One client stays, so that the process keeps its stream to istiod; it makes no calls and so no connections.
	keeper, err := proxyless.NewClient(options.Service)
	if err != nil {
		return err
	}
	defer keeper.Close()
	keeper.Connect()

	var mu sync.Mutex
	report := loadReport{By: map[string]int{}}
	var pending sync.WaitGroup
	pending.Go(func() {
		for ctx.Err() == nil {
			if err := callSome(ctx, options, func(server string, err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					report.Failures = append(report.Failures, fmt.Sprintf("%s call %d: %v", time.Now().Format(time.TimeOnly), report.calls(), err))
				} else {
					report.By[server]++
				}
			}); err != nil {
				mu.Lock()
				report.Failures = append(report.Failures, err.Error())
				mu.Unlock()
			}
			mu.Lock()
			report.Connections++
			mu.Unlock()
		}
	})
	out := json.NewEncoder(os.Stdout)
	write := func() error {
		mu.Lock()
		copied := report
		copied.By = maps.Clone(report.By)
		copied.Failures = report.Failures[:min(len(report.Failures), 20)]
		mu.Unlock()
		return out.Encode(copied)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			pending.Wait()
			return write()
		case <-tick.C:
			if err := write(); err != nil {
				return err
			}
		}
	}
}

// callSome makes the calls of one client.
func callSome(ctx context.Context, options loadOptions, count func(server string, err error)) (err error) {
	client, err := proxyless.NewClient(options.Service)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	tick := time.NewTicker(options.Interval)
	defer tick.Stop()
	for range options.PerConnection {
		const limit = 15 * time.Second
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit) // a call is never cut off by the end
		server, err := client.Call(limited)
		cancel()
		count(server, err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}
