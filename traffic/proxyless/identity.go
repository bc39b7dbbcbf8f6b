// SPDX-License-Identifier: Apache-2.0

// Package proxyless is a gRPC workload of the mesh without a proxy: istiod configures its client and its server by xDS, and
// issues its certificate. It does for one process what Istio's agent does beside an application.
package proxyless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/istiod-agent/istiod-agent/cli/verify/workload"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// Options of an identity.
type Options struct {
	// Istiod is the HOST:PORT of istiod's port 15012, and ServerName the name in its certificate.
	Istiod, ServerName string
	// TokenFile holds a token of the workload's service account for the audience istio-ca.
	TokenFile string
	// RootFile holds the roots, in PEM, that istiod has published (ConfigMap istio-ca-root-cert).
	RootFile string
	// Lifetime of the certificates; they are renewed after half of it.
	Lifetime time.Duration
}

// Identity is a workload's certificate, in memory, with the roots that it trusts.
type Identity struct {
	options Options

	mu        sync.RWMutex
	workload  *workload.Workload
	published []byte // the content of RootFile at the last request
	requested time.Time
}

// pollInterval is how often Keep checks the root file and the time.
const pollInterval = 500 * time.Millisecond

// Obtain requests a first certificate. It retries until ctx ends: a Pod may start before istiod has published its root.
func Obtain(ctx context.Context, options Options) (*Identity, error) {
	i := &Identity{options: options}
	for {
		err := i.renew(ctx)
		if err == nil {
			return i, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("requesting a certificate from istiod: %w", err)
		case <-time.After(pollInterval):
		}
	}
}

// Keep renews the certificate until ctx ends: after half of its lifetime, and once the published roots change, as Istio's
// agent does (Istio security/pkg/nodeagent/cache/secretcache.go). A failed renewal keeps the certificate and is tried again.
func (i *Identity) Keep(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !i.due(time.Now()) {
			continue
		}
		switch err := i.renew(ctx); {
		case err == nil:
			slog.Info("The certificate is renewed")
		case ctx.Err() == nil:
			slog.Warn("The certificate is not renewed yet", "error", bounded.Message(bounded.Plain(err.Error())))
		}
	}
}

// due reports whether a renewal is due.
func (i *Identity) due(now time.Time) bool {
	published, err := os.ReadFile(i.options.RootFile)
	i.mu.RLock()
	defer i.mu.RUnlock()
	return err == nil && !bytes.Equal(published, i.published) || now.Sub(i.requested) > i.options.Lifetime/2
}

func (i *Identity) renew(ctx context.Context) error {
	const limit = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	published, err := os.ReadFile(i.options.RootFile)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(i.options.TokenFile)
	if err != nil {
		return err
	}
	requested := time.Now()
	found, err := workload.Obtain(ctx, workload.Request{
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", i.options.Istiod)
		},
		ServerName: i.options.ServerName, Trusted: published, Token: strings.TrimSpace(string(token)), Lifetime: i.options.Lifetime,
	})
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.workload, i.published, i.requested = found, published, requested
	return nil
}

func (i *Identity) current() (*workload.Workload, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.workload == nil {
		return nil, errors.New("the workload has no certificate")
	}
	return i.workload, nil
}
