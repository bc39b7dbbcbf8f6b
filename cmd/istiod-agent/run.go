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
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/istiod-agent/istiod-agent/agent"
	"github.com/istiod-agent/istiod-agent/agent/ca/certmanager"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/cluster"
	"github.com/istiod-agent/istiod-agent/agent/metrics"
	"github.com/istiod-agent/istiod-agent/agent/remoteclusters"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/serve"
	"github.com/istiod-agent/istiod-agent/internal/version"
)

// healthPort is the port of the injected probes (patches.HealthPort).
const healthPort = 15085

// connections bounds those on the port; the kubelet and Prometheus have one each.
const connections = 16

// obtain is the init container.
func (o *options) obtain(ctx context.Context, log logr.Logger) error {
	shortLived()
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

// keep is the sidecar.
func (o *options) keep(ctx context.Context, log logr.Logger) error {
	longLived()
	a, background, err := o.agent(log)
	if err != nil {
		return err
	}
	remote := remoteclusters.New(o.istiodMonitoring, log)
	a.RemoteClusters, background = remote, append(background, remote.Run)
	if o.port != 0 {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(o.port)))
		if err != nil {
			return fmt.Errorf("--port: %w; choose a free port, and the same one in the injected probe", err)
		}
		serving, end := context.WithCancel(ctx)
		var served sync.WaitGroup
		served.Go(func() {
			server := serve.Server{Handler: handler(a), Connections: connections, Log: log}
			if err := server.Serve(serving, listener); err != nil {
				log.Error(err, "Stopped serving health and metrics")
			}
		})
		defer served.Wait()
		defer end()
	}
	stop := start(ctx, background)
	defer stop()
	return a.Run(ctx)
}

// agent returns the agent and what runs beside it.
func (o *options) agent(log logr.Logger) (*agent.Agent, []func(context.Context), error) {
	log.Info("Starting", "version", version.Current().Version, "namespace", o.identity.Namespace, "serviceAccount", o.identity.ServiceAccount, "cacerts", o.cacertsDir)
	directory, err := cacerts.Open(o.cacertsDir, o.allowDisk)
	if err != nil {
		return nil, nil, err
	}
	var background []func(context.Context)
	measured := metrics.New()
	o.tokens.Root = certificatesv1.TokenRoot
	a := &agent.Agent{
		Identity: o.identity, Directory: directory, Metrics: measured, Log: log,
		IstiodAddress: o.istiodAddress, WorkloadTTL: o.workloadTTL, MultiRoot: o.multiRoot,
		Reporter: noReporter{},
		Vault: vault.Options{
			Namespace: o.identity.Namespace, ServiceAccount: o.identity.ServiceAccount,
			Tokens: o.tokens, AllowedServers: o.allowedServers, Timeout: o.vaultTimeout, Observe: measured.Observe,
		},
		CertManager: certmanager.Options{Pod: o.identity.Pod, Patience: certmanager.DefaultPatience, Observe: measured.Observe},
	}
	config, err := o.restConfig()
	switch {
	case err != nil && o.spec == "":
		return nil, nil, noAPIServer(err)
	case err == nil:
		api, err := cluster.New(config, o.identity)
		if err != nil {
			return nil, nil, err
		}
		a.APIServer, a.Vault.APIServer, a.CertManager.Requests = api, api, api.CertificateRequests()
		a.CertManager.PodUID = cluster.PodUID(config, o.identity)
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

// noAPIServer adds the remedy. A Pod without the token of its service account most often has
// automountServiceAccountToken: false.
func noAPIServer(err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("no token for the API server, to find the IssuedCertificate: %w; mount the token of istiod's service account there, in istiod's container and the agent's, or remove automountServiceAccountToken: false", err)
	}
	return fmt.Errorf("no API server to read the IssuedCertificate from: %w; run in a Pod, or set --kubeconfig or --spec", err)
}

// restConfig returns the configuration of the Pod's API server, or of --kubeconfig.
func (o *options) restConfig() (*rest.Config, error) {
	if o.kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", o.kubeconfig)
}

// start runs the tasks that outlast the agent, to write its last status. stop ends them and waits for their end.
func start(ctx context.Context, background []func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	for _, run := range background {
		running.Go(func() { run(ctx) })
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

// noReporter is for a specification in a file, which has no status.
type noReporter struct{}

func (noReporter) Status(*certificatesv1.IssuedCertificate, certificatesv1.IssuedCertificateStatus) {}

func (noReporter) Event(*certificatesv1.IssuedCertificate, bool, string, string) {}
