// SPDX-License-Identifier: Apache-2.0

package virtualmesh

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// gate is a proxy between a controller and the API server. It forwards one write, of an IssuedCertificate or of a VirtualMesh's
// status, and blocks the next one until the controller is killed, so that a restart separates all writes.
type gate struct {
	*httptest.Server
	apiServer http.Handler

	mu      sync.Mutex
	open    bool
	waiting bool // a write that was not let through
}

// newGate puts a gate before the replicas that start from now on. They run without leader election, since the lease of a
// killed one would have to expire each time.
func newGate(t *testing.T) *gate {
	t.Helper()
	config, err := shared.Webhook.Cluster()
	must(t, err)
	transport, err := rest.TransportFor(config)
	must(t, err)
	target, err := url.Parse(config.Host)
	must(t, err)
	g := &gate{apiServer: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, FlushInterval: -1, // watches
		ErrorLog:     log.New(io.Discard, "", 0), // of connections that die with the controller
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	g.Server = httptest.NewUnstartedServer(g)
	g.Config.ErrorLog = log.New(io.Discard, "", 0)
	g.Start()
	t.Cleanup(g.Close)
	must(t, shared.Webhook.Through(g.URL))
	return g
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	read := r.Method == http.MethodGet
	if kept := strings.Contains(r.URL.Path, "/issuedcertificates") || strings.HasSuffix(r.URL.Path, "/status"); !read && kept && !g.pass() {
		_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client has gone
		<-r.Context().Done()
		return
	}
	g.apiServer.ServeHTTP(w, r)
}

func (g *gate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	passes := g.open
	g.open, g.waiting = false, !passes
	return passes
}

// life starts a controller, lets it write once, and kills it before its next write or when it has nothing to write. It reports
// whether the controller wrote.
func (g *gate) life(t *testing.T) (wrote bool) {
	t.Helper()
	g.mu.Lock()
	g.open, g.waiting = true, false
	g.mu.Unlock()
	replica, err := shared.Webhook.Scale(t.Context())
	must(t, err)
	cluster.Eventually(t, "the controller has done what there is to do, or waits", func() error {
		g.mu.Lock()
		waiting := g.waiting
		g.mu.Unlock()
		if waiting {
			return nil
		}
		if done, _, err := replica.Sum(t.Context(), `controller_runtime_reconcile_total{controller="meshes"`); err != nil || done == 0 {
			return errors.Join(errors.New("it has done nothing yet"), err)
		}
		for _, series := range []string{`workqueue_depth{controller="meshes"`, `controller_runtime_active_workers{controller="meshes"`} {
			if left, _, err := replica.Sum(t.Context(), series); err != nil || left > 0 {
				return errors.Join(fmt.Errorf("%s: %g", series, left), err)
			}
		}
		return nil
	})
	must(t, shared.Webhook.Kill(replica))
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.open
}
