// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

const (
	// readInterval is how often each replica reads the ConfigMaps: a few requests, for which RBAC's get by name is enough.
	readInterval = 10 * time.Second
	// readTimeout bounds the reading of all ConfigMaps.
	readTimeout = 8 * time.Second
)

// Endpoint is a SPIFFE bundle endpoint of profile https_web (SPIFFE Federation, 5.2.1). It is an http.Handler and a
// controller-runtime Runnable of every replica, leader or not.
//
// If the published roots cannot be read or are not valid, it continues to serve the last valid bundle: an istiod that gets
// none at a poll withdraws its trust until the next one (pilot/pkg/trustbundle, fetchRemoteTrustAnchors). Without a bundle,
// it returns 503.
type Endpoint struct {
	reader     client.Reader
	namespaces []string
	log        logr.Logger

	// served is nil until there is a valid bundle.
	served atomic.Pointer[document]
	// current reports whether the last reading was valid.
	current atomic.Bool
	// problem is the last problem that was logged.
	problem string
}

// NewEndpoint returns the endpoint of the mesh whose istiods are in these namespaces. The reader must not be cached, so that
// all replicas read the same.
func NewEndpoint(reader client.Reader, namespaces []string, log logr.Logger) *Endpoint {
	return &Endpoint{reader: reader, namespaces: namespaces, log: log}
}

// NeedLeaderElection is false: every replica serves.
func (*Endpoint) NeedLeaderElection() bool { return false }

// Start keeps the bundle current until the context ends.
func (e *Endpoint) Start(ctx context.Context) error {
	wait.UntilWithContext(ctx, func(ctx context.Context) { e.refresh(ctx, time.Now()) }, readInterval)
	return nil
}

// refresh reads the roots. Only Start calls it, one call at a time.
func (e *Endpoint) refresh(ctx context.Context, now time.Time) {
	read, err := e.read(ctx)
	if ctx.Err() != nil {
		return
	}
	e.current.Store(err == nil)
	problem := ""
	switch {
	case err != nil:
		problem = err.Error()
	case read.expired(now) != "":
		problem = "roots have ended, and verify nothing: " + read.expired(now)
	}
	if last := e.served.Load(); err == nil && (last == nil || last.etag != read.etag) {
		e.served.Store(read)
		e.log.Info("Serving a new bundle of roots", "roots", len(read.roots), "sequence", read.sequence)
	}
	if problem != e.problem {
		e.problem = problem
		switch {
		case err != nil && e.served.Load() != nil:
			e.log.Error(err, "The published roots are not valid: the bundle endpoint continues to serve the last valid ones")
		case err != nil:
			e.log.Error(err, "The bundle endpoint has no roots to serve")
		case problem != "":
			e.log.Info("The bundle endpoint serves what istiod publishes", "problem", problem)
		}
	}
}

func (e *Endpoint) read(ctx context.Context) (*document, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	sources := make([]published, len(e.namespaces))
	for i, namespace := range e.namespaces {
		var stored corev1.ConfigMap
		if err := e.reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: istio.RootConfigMap}, &stored); err != nil {
			return nil, fmt.Errorf("reading ConfigMap %s/%s, which istiod publishes: %w", namespace, istio.RootConfigMap, err)
		}
		sources[i] = published{namespace, stored.ResourceVersion, stored.Data[istio.RootCertFile]}
	}
	return newDocument(sources)
}

// errNoBundle is the response without a bundle. Its cause is in the log alone: the client may be anyone.
var errNoBundle = errors.New("there is no bundle yet")

// ServeHTTP serves the bundle at /. The response depends on nothing else in the request, except for the ETag.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// Each poll opens a connection, also of go-spiffe, which never closes it. An idle one would take the place of another.
	w.Header().Set("Connection", "close")
	served := e.served.Load()
	switch {
	case r.ContentLength != 0: // a length, or a body of unknown length
		http.Error(w, "a request has no body", http.StatusRequestEntityTooLarge)
	case r.URL.Path != "/":
		http.Error(w, "the bundle is at /", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
	case served == nil:
		w.Header().Set("Retry-After", strconv.Itoa(int(readInterval/time.Second)))
		http.Error(w, errNoBundle.Error(), http.StatusServiceUnavailable)
	default:
		served.write(w, r)
	}
}

func (d *document) write(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("ETag", d.etag)
	// Caches must ask again each time: a withdrawn root must not live on in them.
	header.Set("Cache-Control", "no-cache")
	if strings.Contains(r.Header.Get("If-None-Match"), d.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(d.json)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(d.json) // the client may be gone
	}
}
