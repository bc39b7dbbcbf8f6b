// SPDX-License-Identifier: Apache-2.0

package webhookserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Replica is one process of istiod-agent-webhook.
type Replica struct {
	// Ports on loopback.
	Port, HealthPort, MetricsPort int

	command *exec.Cmd
	exited  chan struct{}
	exitErr error
	log     string
}

// startReplica runs the program with its own ports in a configuration that is
// otherwise every replica's.
func startReplica(program []string, kubeconfig, dir string, config map[string]any) (*Replica, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	r := &Replica{Port: ports[0], HealthPort: ports[1], MetricsPort: ports[2], exited: make(chan struct{})}
	r.log = filepath.Join(dir, "webhook-"+strconv.Itoa(r.Port)+".log")
	file := filepath.Join(dir, "config-"+strconv.Itoa(r.Port)+".yaml")
	if err := writeYAML(file, overlay(config, map[string]any{"server": map[string]any{
		"bindAddress": "127.0.0.1", "port": r.Port, "healthPort": r.HealthPort, "metricsPort": r.MetricsPort,
	}})); err != nil {
		return nil, err
	}
	log, err := os.Create(r.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	r.command = exec.Command(program[0], append(program[1:], "--config", file, "--kubeconfig", kubeconfig)...)
	r.command.Stdout, r.command.Stderr = log, log
	r.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for who started it, who ends it in order
	if err := r.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		r.exitErr = r.command.Wait()
		close(r.exited)
	}()
	return r, nil
}

// Address is where the replica serves admission.
func (r *Replica) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port)) }

// Exited is closed when the process has ended.
func (r *Replica) Exited() <-chan struct{} { return r.exited }

// PID of the process.
func (r *Replica) PID() int { return r.command.Process.Pid }

// WaitReady returns once /readyz answers 200.
func (r *Replica) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	url := fmt.Sprintf("http://127.0.0.1:%d/readyz", r.HealthPort)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("not asked yet")
	for {
		select {
		case <-r.exited:
			return fmt.Errorf("the webhook ended (%w):\n%s", r.exitErr, r.Log())
		case <-ctx.Done():
			return fmt.Errorf("the webhook did not become ready (%w):\n%s", last, r.Log())
		case <-tick.C:
			if _, last = get(ctx, url); last == nil {
				return nil
			}
		}
	}
}

// Metrics is what /metrics answers.
func (r *Replica) Metrics(ctx context.Context) (string, error) {
	return get(ctx, fmt.Sprintf("http://127.0.0.1:%d/metrics", r.MetricsPort))
}

// Sum adds up the series in /metrics that start like this (labels stand in
// alphabetical order there); found is false when there is none.
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

// Log is what the process has written so far.
func (r *Replica) Log() string {
	content, err := os.ReadFile(r.log)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// Stop asks the process to end, as the kubelet does, and waits for it; an exit
// code other than 0 is an error.
func (r *Replica) Stop() error {
	if err := r.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-r.exited:
	case <-time.After(30 * time.Second):
		return errors.Join(fmt.Errorf("the webhook did not end 30 seconds after SIGTERM:\n%s", r.Log()), r.Kill())
	}
	if r.exitErr != nil {
		return fmt.Errorf("the webhook ended badly (%w):\n%s", r.exitErr, r.Log())
	}
	return nil
}

// Kill ends the process at once.
func (r *Replica) Kill() error {
	if err := r.command.Process.Kill(); err != nil {
		return err
	}
	<-r.exited
	return nil
}

func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, strings.TrimSpace(string(body)))
	}
	return string(body), err
}

// freePorts gives distinct loopback ports that nothing listens on.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close() // at the end, so that the ports are distinct
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
