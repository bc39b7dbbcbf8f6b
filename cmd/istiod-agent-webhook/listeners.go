// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/istiod-agent/istiod-agent/internal/serve"
)

const (
	// An API server opens one or two connections, and one more for each 8 concurrent admissions.
	admissionConnections = 64
	// A kubelet and a Prometheus open one each.
	otherConnections = 32
	// A client of the bundle endpoint opens one for each poll. The limit also bounds what the public can use of the program.
	bundleConnections = 32
)

type listener struct {
	port   int32
	server *serve.Server
}

// serveAll runs the manager and all listeners until the context ends. The ports open first, so that the kubelet gets a
// response while the manager waits for the API server.
func serveAll(ctx context.Context, mgr manager.Manager, listeners []listener, address string) error {
	all, ctx := errgroup.WithContext(ctx)
	var opened []net.Listener
	for _, l := range listeners {
		listening, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(l.port))))
		if err != nil {
			for _, other := range opened {
				_ = other.Close()
			}
			return fmt.Errorf("opening port %d: %w", l.port, err)
		}
		opened = append(opened, listening)
	}
	for i, l := range listeners {
		l.server.Log = ctrl.Log.WithName("http").WithValues("port", l.port)
		l.server.Drain = shutdownTimeout
		all.Go(func() error { return l.server.Serve(ctx, opened[i]) })
	}
	all.Go(func() error {
		err := mgr.Start(ctx)
		if err == nil && ctx.Err() == nil {
			err = errors.New("the controllers have ended")
		}
		return err
	})
	return all.Wait()
}

// health serves /healthz and /readyz, and each check below them by its name.
func health(ready healthz.Checker) http.Handler {
	mux := http.NewServeMux()
	for path, checks := range map[string]map[string]healthz.Checker{
		"/healthz": {"ping": healthz.Ping},
		"/readyz":  {"serving": atMostEvery(time.Second, ready)},
	} {
		handler := http.StripPrefix(path, &healthz.Handler{Checks: checks})
		mux.Handle(path, handler)
		mux.Handle(path+"/", handler)
	}
	return mux
}

// atMostEvery shares a passed check among the requests of an interval, so that more requests cost no more. A failure is not
// shared: its cause may be that a request ended.
func atMostEvery(interval time.Duration, check healthz.Checker) healthz.Checker {
	var mu sync.Mutex
	var passed time.Time
	return func(r *http.Request) error {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(passed) < interval {
			return nil
		}
		err := check(r)
		if err == nil {
			passed = time.Now()
		}
		return err
	}
}

// metricsHandler serves /metrics, two requests at a time: each takes a processor for some milliseconds.
func metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, DisableCompression: true}))
	return serve.NewBudget(2, 1, time.Second).Limit(0, mux)
}
