// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// Main is a package's TestMain: it stores a running cluster in into, with the chart installed if there are options, and
// runs the tests. The cluster is stopped also when the tests are interrupted or time out.
func Main(m *testing.M, into **Cluster, options *webhookserver.Options) {
	MainOfSeveral(m, Spec{Into: into, Options: options})
}

// Spec describes a cluster by the parameters of Main.
type Spec struct {
	Into    **Cluster
	Options *webhookserver.Options
	// Configure may add flags to the API server; nil for none.
	Configure func(*envtest.APIServer)
}

// MainOfSeveral is Main with several clusters.
func MainOfSeveral(m *testing.M, specs ...Spec) {
	flag.Parse()
	code, err := run(m, specs)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M, specs []Spec) (code int, err error) {
	var started []*Cluster
	stop := sync.OnceValue(func() error {
		var failed []error
		for _, c := range started {
			failed = append(failed, c.Stop())
		}
		return errors.Join(failed...)
	})
	defer func() { err = errors.Join(err, stop()) }()
	for _, each := range specs {
		var configure []func(*envtest.APIServer)
		if each.Configure != nil {
			configure = append(configure, each.Configure)
		}
		c, err := Start(configure...)
		if err != nil {
			return 1, err
		}
		started = append(started, c)
		*each.Into = c
	}
	defer stopEarly(stop)()

	for i, each := range specs {
		if each.Options == nil {
			continue
		}
		if err := started[i].Install(context.Background(), *each.Options); err != nil {
			return 1, err
		}
	}
	return m.Run(), nil
}

// stopEarly stops the cluster on a signal and shortly before go test's deadline, which would both leave processes behind.
// The function that it returns cancels that.
func stopEarly(stop func() error) (cancel func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	var deadline <-chan time.Time
	if timeout, ok := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); ok && timeout > 0 {
		deadline = time.After(timeout - min(timeout/10, 10*time.Second))
	}
	done := make(chan struct{})
	go func() {
		var why string
		select {
		case <-done:
			return
		case received := <-signals:
			why = received.String()
		case <-deadline:
			why = "the time set by -timeout is over"
		}
		fmt.Fprintln(os.Stderr, "Stopping the cluster:", why, stop())
		os.Exit(1)
	}()
	return func() { close(done) }
}
