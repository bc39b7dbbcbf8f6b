// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// measureWebhook runs the shipped program before a real API server: its memory on all processors, then its times on one,
// with what asks on another.
func measureWebhook(ctx context.Context) (results []result, err error) {
	cpus, err := processors()
	if err != nil {
		return nil, err
	}
	if len(cpus) < 2 {
		return nil, errors.New("two processors are needed: one for the servers, one for what asks them")
	}
	serving, asking := cpus[0], cpus[1]
	if err := pin(asking); err != nil { // and with it the API server
		return nil, err
	}
	defer func() { err = errors.Join(err, pin(cpus...)) }()
	c, err := cluster.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	r, err := readReviews(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := c.Install(ctx, webhookserver.Options{Before: []string{"taskset", "-c", "0-1023"}}); err != nil { // wherever it likes
		return nil, err
	}
	replica := c.Webhook.Replicas[0]
	roots, err := caBundle(ctx, c)
	if err != nil {
		return nil, err
	}
	if results, err = webhookMemory(ctx, replica.PID(), newClient(replica.Address(), roots), r); err != nil {
		return nil, err
	}

	if err := c.Webhook.StopReplicas(); err != nil {
		return nil, err
	}
	c.Webhook.Before("taskset", "-c", strconv.Itoa(serving))
	if replica, err = c.Webhook.Scale(ctx); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "istiod-agent-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	servers, stop, err := startFloors(ctx, dir, serving)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return nil, err
	}
	servers = append(servers, server{webhookName, newClient(replica.Address(), roots)})
	fmt.Println("  Asking it, and the three others, in turn, each alone on one processor ...")
	times, err := measureTimes(ctx, r, servers)
	return append(times, results...), err
}

// webhookMemory is what the program takes at rest, and what it takes after many admissions.
func webhookMemory(ctx context.Context, pid int, asking *client, r reviews) ([]result, error) {
	atRest, err := settled(ctx, pid)
	if err != nil {
		return nil, err
	}
	if _, err := asking.load(ctx, r[0], load{parallel: 16, requests: 20_000}); err != nil {
		return nil, err
	}
	afterwards, err := residentMiB(pid)
	if err != nil {
		return nil, err
	}
	size, err := binarySize(ctx)
	return []result{
		memory("the webhook's resident memory at rest", atRest, 40),
		memory("the webhook's resident memory after 20,000 admissions, 16 in parallel", afterwards, 56),
		{measure: "size of the webhook's static binary", found: size, limit: 42, value: fmt.Sprintf("%.1f MB", size), unit: " MB"},
	}, err
}

func memory(measure string, found, limit float64) result {
	return result{measure: measure, found: found, limit: limit, value: fmt.Sprintf("%.1f MiB", found), unit: " MiB"}
}

// settled waits until the resident memory has not grown for two seconds.
func settled(ctx context.Context, pid int) (float64, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	most, still := 0.0, 0
	for still < 20 {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		now, err := residentMiB(pid)
		if err != nil {
			return 0, err
		}
		if still++; now > most {
			most, still = now, 0
		}
	}
	return residentMiB(pid)
}

// residentMiB is a process's resident memory.
func residentMiB(pid int) (float64, error) { return statusMiB(pid, "VmRSS:") }

// mostResidentMiB is the most that it ever was.
func mostResidentMiB(pid int) (float64, error) { return statusMiB(pid, "VmHWM:") }

// statusMiB reads a line of a process's status, which only Linux tells.
func statusMiB(pid int, name string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading resident memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if kB, found := strings.CutPrefix(line, name); found {
			value, err := strconv.ParseFloat(strings.Fields(kB)[0], 64)
			return value / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in the process's status", name)
}

// processorTime is how long a process has had a processor.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading processor time: %w", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold blanks
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("%d fields in the process's stat", len(fields))
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100
	return time.Duration(user+system) * tick, err
}

func binarySize(ctx context.Context) (float64, error) {
	program, err := built.Webhook(ctx)
	if err != nil {
		return 0, err
	}
	info, err := os.Stat(program)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / 1e6, nil
}

func caBundle(ctx context.Context, c *cluster.Cluster) (*x509.CertPool, error) {
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := c.Get(ctx, ctrlclient.ObjectKey{Name: webhookserver.Release.Name}, &configuration); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(configuration.Webhooks[0].ClientConfig.CABundle) {
		return nil, errors.New("the webhook configuration has no caBundle")
	}
	return roots, nil
}
