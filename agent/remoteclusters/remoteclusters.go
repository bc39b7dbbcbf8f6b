// SPDX-License-Identifier: Apache-2.0

// Package remoteclusters reads from istiod which remote clusters it reads services and endpoints from, and whether it can. It
// decides nothing about certificates, and needs no rights: istiod answers requests from its own Pod.
//
// Two pages of istiod's monitoring port are read each time, the same in Istio 1.20 to 1.31:
//
//   - /debug/clusterz lists the clusters and their states, in JSON (Istio pilot/pkg/xds/debug.go). A state describes the first
//     read alone: it stays "synced" when a token expires later.
//   - /metrics has controller_sync_errors_total, the failed requests for each cluster (pilot/pkg/util/informermetric). It grows
//     while a token is refused or an API server does not answer, and not while connections are refused, which client-go
//     retries by itself (tools/cache/reflector.go, isWatchErrorRetriable).
//
// A third one, /debug/endpointShardz, decides about a cluster that timed out: with the accounts of `kubectl istiod-agent join`,
// which cannot list Secrets, istiod reads all else.
//
// The gauge istiod_remote_cluster_sync_status is not used: Istio before 1.29 lacks it, that of 1.29 reports every cluster as
// timed out after 30 s (istio/istio#60082), and since 1.30 a renewed remote secret leaves it at "closed" (the previous
// connection's Cluster.Stop reports under the same name).
package remoteclusters

import (
	"context"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const (
	// shortestPause and longestPause are between two readings: short after a change, then four times as
	// long each time: every reading wakes the processor.
	shortestPause, longestPause = 5 * time.Second, time.Minute
	// patience is how long readings may fail before that is reported: an istiod that starts or restarts does not answer.
	patience = 2 * time.Minute
)

// Observer reads the remote clusters of one istiod.
type Observer struct {
	istiod   istiod
	log      logr.Logger
	readings readings
	served   served
	latest   atomic.Pointer[certificatesv1.RemoteClusters]
	changed  chan struct{}
}

// New returns an Observer of the istiod whose monitoring port is at an address, HOST:PORT.
func New(address string, log logr.Logger) *Observer {
	return &Observer{istiod: newIstiod(address), log: log, changed: make(chan struct{}, 1)}
}

// Latest returns the result of the last reading, nil before the first. The caller must not change it.
func (o *Observer) Latest() *certificatesv1.RemoteClusters { return o.latest.Load() }

// Changed receives a value after Latest has changed.
func (o *Observer) Changed() <-chan struct{} { return o.changed }

// Run reads until ctx ends.
func (o *Observer) Run(ctx context.Context) {
	o.readings.started = time.Now()
	pause := shortestPause
	for {
		if o.read(ctx) {
			pause = shortestPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(4*pause, longestPause)
	}
}

// read reports whether the result has changed.
func (o *Observer) read(ctx context.Context) bool {
	clusters, errors, err := o.istiod.read(ctx)
	if err == nil {
		o.served.apply(clusters, errors, time.Now(), func(names []string) ([]string, error) { return o.istiod.withoutEndpoints(ctx, names) })
	}
	if ctx.Err() != nil {
		return false
	}
	before, latest := o.latest.Load(), o.readings.add(clusters, errors, err, time.Now())
	if latest == nil || reflect.DeepEqual(before, latest) {
		return false
	}
	o.latest.Store(latest)
	select {
	case o.changed <- struct{}{}:
	default: // the reader has not seen the last change yet
	}
	o.log.Info("The remote clusters of istiod have changed", "count", latest.Count, "clusters", latest.Clusters, "error", latest.Error)
	return true
}
