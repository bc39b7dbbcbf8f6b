// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"k8s.io/client-go/util/cert"
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
	bounds := map[string]struct{ floor, usual float64 }{
		loads[0].name: {1.3, 2.5}, loads[1].name: {1.3, 4}, loads[3].name: {1.5, 4},
	}
	for _, l := range loads {
		bound, bounded := bounds[l.name]
		if !bounded {
			continue
		}
		floor, usual, ours := found[l.name]["floor"], found[l.name]["usual"], found[l.name]["ours"]
		results = append(results,
			ratio(l.name+": time of the floor's", ours.Seconds(), floor.Seconds(), bound.floor, fmt.Sprintf("%s / %s", inMilliseconds(ours), inMilliseconds(floor))),
			faster(l.name+": times faster than usual", usual.Seconds(), ours.Seconds(), bound.usual, fmt.Sprintf("%s / %s", inMilliseconds(usual), inMilliseconds(ours))))
	}
	small, large := found[loads[2].name]["ours"], found[loads[3].name]["ours"]
	return append(results, ratio("1,500 environment variables: time of 150's", large.Seconds(), small.Seconds(), 11,
		fmt.Sprintf("%s / %s", inMilliseconds(large), inMilliseconds(small))))
}

func inMilliseconds(d time.Duration) string {
	return fmt.Sprintf("%.3f ms", float64(d.Microseconds())/1000)
}

// measureTimes serves each handler in a process of its own and asks them in turn.
func measureTimes(ctx context.Context, r reviews) (_ times, err error) {
	dir, err := os.MkdirTemp("", "istiod-agent-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	roots, err := certificate(dir)
	if err != nil {
		return nil, err
	}
	clients := map[string]*client{}
	for _, name := range handlers {
		c, stop, err := startServer(ctx, name, dir, roots)
		if err != nil {
			return nil, fmt.Errorf("serving %s: %w", name, err)
		}
		defer stop()
		clients[name] = c
	}

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

// certificate writes a self-signed one for localhost.
func certificate(dir string) (*x509.CertPool, error) {
	crt, key, err := cert.GenerateSelfSignedCertKey("localhost", nil, nil)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(crt)
	return roots, errors.Join(
		os.WriteFile(filepath.Join(dir, "tls.crt"), crt, 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
}

// startServer runs this program again to serve one handler, and returns once it
// listens.
func startServer(ctx context.Context, name, dir string, roots *x509.CertPool) (_ *client, stop func(), err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	server := exec.CommandContext(ctx, program, "serve", name)
	server.Env = append(os.Environ(), portVariable+"="+strconv.Itoa(port), certDirVariable+"="+dir)
	stdin, err := server.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() { endOf(stdin, server) }
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if err := listening(ctx, address); err != nil {
		stop()
		return nil, nil, err
	}
	return newClient(address, roots), stop, nil
}

func endOf(stdin io.Closer, server *exec.Cmd) {
	_ = stdin.Close()
	_ = server.Wait()
}

func listening(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			return connection.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
