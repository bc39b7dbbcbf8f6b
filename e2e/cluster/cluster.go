// SPDX-License-Identifier: Apache-2.0

// Package cluster gives the tests of one package a cluster to share: a control
// plane, this project's chart with its webhook running, and clients.
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

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/istiod-agent/istiod-agent/e2e/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/helm"
	"github.com/istiod-agent/istiod-agent/e2e/webhookserver"
)

// Cluster is a running control plane and what talks to it.
type Cluster struct {
	// Client is a cluster administrator's; it has no cache.
	client.Client
	Plane *controlplane.ControlPlane
	Helm  *helm.Client
	// Webhook is this project's, nil before Install.
	Webhook *webhookserver.Webhook
}

// Start starts a control plane. Stop must be called.
func Start() (*Cluster, error) {
	logf.SetLogger(logr.Discard()) // errors are returned
	klog.SetLogger(logr.Discard())
	plane, err := controlplane.Start()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Plane: plane}
	config := rest.CopyConfig(plane.Config)
	config.WarningHandler = rest.NoWarnings{} // those who want warnings ask with a client of their own
	if c.Client, err = client.New(config, client.Options{}); err == nil {
		c.Helm, err = helm.NewClient(config)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// Install installs the chart and starts its webhook.
func (c *Cluster) Install(ctx context.Context, options webhookserver.Options) (err error) {
	c.Webhook, err = webhookserver.Start(ctx, c.Plane, options)
	return err
}

// Stop ends all processes.
func (c *Cluster) Stop() error {
	var failed []error
	if c.Webhook != nil {
		failed = append(failed, c.Webhook.Stop())
	}
	return errors.Join(append(failed, c.Plane.Stop())...)
}

// Main is a package's TestMain: it runs the tests with a cluster at into, and
// with the chart installed when options are given. The cluster ends also when
// the tests are interrupted or run out of time.
func Main(m *testing.M, into **Cluster, options *webhookserver.Options) {
	flag.Parse()
	code, err := run(m, into, options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M, into **Cluster, options *webhookserver.Options) (code int, err error) {
	c, err := Start()
	if err != nil {
		return 1, err
	}
	stop := sync.OnceValue(c.Stop)
	defer func() { err = errors.Join(err, stop()) }()
	defer stopEarly(stop)()

	if options != nil {
		if err := c.Install(context.Background(), *options); err != nil {
			return 1, err
		}
	}
	*into = c
	return m.Run(), nil
}

// stopEarly ends the cluster on a signal and shortly before go test's deadline,
// either of which would leave its processes behind. It returns what calls it off.
func stopEarly(stop func() error) (callOff func()) {
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
			why = "the time given by -timeout is over"
		}
		fmt.Fprintln(os.Stderr, "Stopping the cluster:", why, stop())
		os.Exit(1)
	}()
	return func() { close(done) }
}
