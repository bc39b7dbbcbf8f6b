// SPDX-License-Identifier: Apache-2.0

package webhookserver

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// Replica is one process of istiod-agent-webhook.
type Replica struct {
	// Ports on loopback. BundlePort is 0 without the bundle endpoint.
	Port, HealthPort, MetricsPort, BundlePort int

	process *process.Process
}

// startReplica runs the program with ports of its own in the configuration that all replicas share.
func startReplica(program []string, kubeconfig, dir string, config map[string]any) (*Replica, error) {
	ports, err := process.FreePorts(4)
	if err != nil {
		return nil, err
	}
	r := &Replica{Port: ports[0], HealthPort: ports[1], MetricsPort: ports[2]}
	server := map[string]any{"bindAddress": "127.0.0.1", "port": r.Port, "healthPort": r.HealthPort, "metricsPort": r.MetricsPort}
	if _, found, _ := unstructured.NestedMap(config, "server", "bundleEndpoint"); found {
		r.BundlePort = ports[3]
		server["bundleEndpoint"] = map[string]any{"port": r.BundlePort}
	}
	file := filepath.Join(dir, "config-"+strconv.Itoa(r.Port)+".yaml")
	if err := writeYAML(file, overlay(config, map[string]any{"server": server})); err != nil {
		return nil, err
	}
	command := exec.Command(program[0], append(program[1:], "--config", file, "--kubeconfig", kubeconfig)...)
	r.process, err = process.StartLogging("the webhook", command, filepath.Join(dir, "webhook-"+strconv.Itoa(r.Port)+".log"))
	return r, err
}

// Address returns HOST:PORT of admission.
func (r *Replica) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port)) }

// MetricsAddress returns HOST:PORT of /metrics.
func (r *Replica) MetricsAddress() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.MetricsPort))
}

// Exited is closed when the process has ended.
func (r *Replica) Exited() <-chan struct{} { return r.process.Exited() }

// PID of the process.
func (r *Replica) PID() int { return r.process.PID() }

// WaitReady returns once /readyz answers 200.
func (r *Replica) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return r.process.WaitUntil(ctx, "/readyz answers 200", func(ctx context.Context) error {
		_, err := process.Get(ctx, fmt.Sprintf("http://127.0.0.1:%d/readyz", r.HealthPort))
		return err
	})
}

// Metrics returns the text of /metrics.
func (r *Replica) Metrics(ctx context.Context) (string, error) {
	return process.Get(ctx, fmt.Sprintf("http://127.0.0.1:%d/metrics", r.MetricsPort))
}

// Sum adds up the values of the series in /metrics that start with the text, whose labels must be in alphabetical order.
func (r *Replica) Sum(ctx context.Context, series string) (sum float64, found bool, err error) {
	metrics, err := r.Metrics(ctx)
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(metrics) {
		if !strings.HasPrefix(line, series) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:len(line)-1], 64)
		if err != nil {
			return 0, false, fmt.Errorf("reading %q: %w", line, err)
		}
		sum, found = sum+value, true
	}
	return sum, found, nil
}

// Log returns what the process has written so far.
func (r *Replica) Log() string { return r.process.Output() }

// Stop sends SIGTERM and waits for the process to end. An exit code other than 0 is an error.
func (r *Replica) Stop() error { return r.process.Stop(30 * time.Second) }

// Kill kills the process.
func (r *Replica) Kill() error { return r.process.Kill() }
