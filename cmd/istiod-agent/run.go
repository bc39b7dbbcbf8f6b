// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/istiod-agent/istiod-agent/agent"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/cluster"
	"github.com/istiod-agent/istiod-agent/agent/metrics"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/serve"
	"github.com/istiod-agent/istiod-agent/internal/version"
)

// healthPort is where the injected probes ask (patches.HealthPort).
const healthPort = 15085

// gcPercent has the heap collected when it has grown by a quarter: the sidecar's is 2 MiB small, and collecting it
// takes less than a millisecond.
const gcPercent = 25

const (
	// connections on the port: kubelets and Prometheus have one each.
	connections = 16
	// memoryLimit is what Go's heap keeps below, as far as it can, where GOMEMLIMIT is not set: the injected container has
	// 64 MiB (api/config/v1alpha1).
	memoryLimit = 48 << 20
)

// shortLivedGCPercent keeps the collector from an init container's few megabytes (its first heap goal is 4 MiB at 100): a
// collection in the midst of verifying took 3 of the 36 ms that `make bench SECTIONS=agent` found.
const shortLivedGCPercent = 400

// obtain is the init container's whole work.
func (o *options) obtain(ctx context.Context, log logr.Logger) error {
	debug.SetGCPercent(shortLivedGCPercent)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	a, background, err := o.agent(log)
	if err != nil {
		return err
	}
	stop := start(ctx, background)
	defer stop()
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done after %s", o.timeout))
		defer cancel()
	}
	return a.Obtain(ctx)
}

// keep is the sidecar's whole work.
func (o *options) keep(ctx context.Context, log logr.Logger) error {
	// It does one thing at a time and mostly none; each further processor costs a part of a megabyte in caches.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(gcPercent)
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	calm()
	a, background, err := o.agent(log)
	if err != nil {
		return err
	}
	if o.port != 0 {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(o.port)))
		if err != nil {
			return fmt.Errorf("--port: %w; choose a free one, and the same in the injected probe", err)
		}
		serving, end := context.WithCancel(ctx)
		var served sync.WaitGroup
		served.Go(func() {
			server := serve.Server{Handler: handler(a), Connections: connections, Log: log}
			if err := server.Serve(serving, listener); err != nil {
				log.Error(err, "Health and metrics are no longer served")
			}
		})
		defer served.Wait()
		defer end()
	}
	stop := start(ctx, background)
	defer stop()
	return a.Run(ctx)
}

// calm has client-go ask once a minute, not twice, whether a silent connection to the API server is still there
// (k8s.io/apimachinery pkg/util/net, configureHTTP2Transport, which knows no other way to be told): nothing that comes
// over it is urgent, and there are thousands of sidecars.
func calm() {
	const variable = "HTTP2_READ_IDLE_TIMEOUT_SECONDS"
	if os.Getenv(variable) == "" {
		_ = os.Setenv(variable, "60") // a name without = or NUL can be set
	}
}

// agent wires the agent, and gives what is to run beside it.
func (o *options) agent(log logr.Logger) (*agent.Agent, []func(context.Context), error) {
	log.Info("Starting", "version", version.Current().Version, "namespace", o.identity.Namespace, "serviceAccount", o.identity.ServiceAccount, "cacerts", o.cacertsDir)
	directory, err := cacerts.Open(o.cacertsDir, o.allowDisk)
	if err != nil {
		return nil, nil, err
	}
	var background []func(context.Context)
	measured := metrics.New()
	o.tokens.Root = certificatesv1.TokenRoot
	issuer := &agent.Issuer{
		Identity: o.identity, Tokens: o.tokens, AllowedServers: o.allowedServers, Timeout: o.vaultTimeout,
		Now: time.Now, Observe: measured.Observe,
	}
	a := &agent.Agent{
		Identity: o.identity, Source: issuer, Directory: directory, Metrics: measured, Log: log,
		IstiodAddress: o.istiodAddress, WorkloadTTL: o.workloadTTL, MultiRoot: o.multiRoot,
		Reporter: quiet{},
	}
	config, err := o.cluster()
	switch {
	case err != nil && o.spec == "":
		return nil, nil, noAPIServer(err)
	case err == nil:
		api, err := cluster.New(config, o.identity)
		if err != nil {
			return nil, nil, err
		}
		issuer.APIServer, a.APIServer = api, api
		if o.spec == "" {
			watch, err := api.Watch(cmp.Or(o.certificatesIn, o.identity.Namespace))
			if err != nil {
				return nil, nil, err
			}
			reporter := api.Reporter(log)
			a.Specifications, a.Reporter = watch, reporter
			background = append(background, watch.Run, reporter.Run)
		}
	}
	if o.spec != "" {
		a.Specifications = &agent.File{Path: o.spec, Identity: o.identity}
	}
	return a, background, nil
}

// noAPIServer says what to do next. A Pod without the token of its service account is most often one whose
// automountServiceAccountToken is false.
func noAPIServer(err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("no token for the API server, to find the IssuedCertificate with: %w; mount the token of istiod's service account there, in istiod's container and the agent's, or remove automountServiceAccountToken: false", err)
	}
	return fmt.Errorf("no API server to read the IssuedCertificate from: %w; run in a pod, or set --kubeconfig or --spec", err)
}

// cluster is the API server of the pod, or of --kubeconfig.
func (o *options) cluster() (*rest.Config, error) {
	if o.kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", o.kubeconfig)
}

// start runs what is to run beside the agent, and outlasts it: its last words are still to be passed on. The
// function it gives stops that, and waits until it has.
func start(ctx context.Context, background []func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for _, each := range background {
		running.Go(func() { each(ctx) })
	}
	return func() {
		cancel()
		running.Wait()
	}
}

func handler(a *agent.Agent) http.Handler {
	mux := http.NewServeMux()
	answer := func(path string, check func(time.Time) error) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			if err := check(time.Now()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			_, _ = fmt.Fprintln(w, "ok")
		})
	}
	answer("/healthz", a.Healthy)
	answer("/readyz", a.Ready)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8") // Prometheus wants one
		a.Metrics.Write(w)
	})
	return mux
}

// quiet is for an agent whose specification is a file: there is no object to tell anything about.
type quiet struct{}

func (quiet) Status(*certificatesv1.IssuedCertificate, certificatesv1.IssuedCertificateStatus) {}
func (quiet) Event(*certificatesv1.IssuedCertificate, bool, string, string)                    {}
