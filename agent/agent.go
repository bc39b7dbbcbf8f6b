// SPDX-License-Identifier: Apache-2.0

// Package agent keeps istiod's intermediate CA: it finds the specification, issues, verifies, publishes, confirms that istiod
// uses it, waits and renews. Package machine decides what to do next; this package does it, and feeds the result back.
//
// It never changes istiod's files but by publishing a complete, verified set in their place, and never replaces the root that
// istiod was started with.
package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/certmanager"
	"github.com/istiod-agent/istiod-agent/agent/ca/secret"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/metrics"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	"github.com/istiod-agent/istiod-agent/agent/roots"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Reporter reports to the API server. Its methods do not block.
type Reporter interface {
	notices.Recorder
	// Status reports this pod's certificate, in full. Its conditions have no times, and lack those that follow from what all
	// pods report.
	Status(certificate *certificatesv1.IssuedCertificate, status certificatesv1.IssuedCertificateStatus)
}

// APIServer reads from the API server what issuing needs.
type APIServer interface {
	secret.Reader
	// ConfigMapValue returns the value of a key of a ConfigMap. It returns an error for one of more than limit bytes, and
	// where there is no such key.
	ConfigMapValue(ctx context.Context, namespace, name, key string, limit int) (string, error)
}

// RemoteClusters observes the clusters that istiod reads services and endpoints from.
type RemoteClusters interface {
	// Latest returns the last result, nil before the first.
	Latest() *certificatesv1.RemoteClusters
	// Changed receives a value after Latest has changed.
	Changed() <-chan struct{}
}

// Agent keeps one istiod's certificate. All exported fields but APIServer and RemoteClusters are required.
type Agent struct {
	Identity       Identity
	Specifications Specifications
	// Vault is for specifications that name a Vault.
	Vault vault.Options
	// CertManager is for specifications that name an issuer of cert-manager.
	CertManager certmanager.Options
	// APIServer is nil where there is none.
	APIServer APIServer
	Directory *cacerts.Directory
	Reporter  Reporter
	Metrics   *metrics.Metrics
	Log       logr.Logger
	// IstiodAddress is istiod's TLS port, as host:port.
	IstiodAddress string
	// WorkloadTTL is the lifetime of the certificates that istiod signs.
	WorkloadTTL time.Duration
	// RemoteClusters are only reported: they change nothing about certificates. It is nil for an init container.
	RemoteClusters RemoteClusters
	// MultiRoot means that istiod accepts other roots while it runs (its ISTIO_MULTIROOT_MESH).
	MultiRoot bool

	started time.Time
	state   machine.State
	notices *notices.Notices
	roots   roots.Policy
	// desired is the specification in force, nil while there is none.
	desired *certificatesv1.IssuedCertificate
	// source is what desired names.
	source ca.Source
	// set is what was published last, nil where nothing valid was.
	set      *cacerts.Set
	reported certificatesv1.IssuedCertificateStatus
	health   atomic.Pointer[health]
}

// note is what an agent leaves, beside the files, for the one after it.
type note struct {
	Digest string `json:"digest"`
	Renew  string `json:"renew,omitempty"`
	// Served is what istiod served before the roots alone were changed: it has not read them while it serves that.
	Served string `json:"served,omitempty"`
	// Unwrapped is the secret id of a wrapping token, which gives it once: the sidecar needs it after the init container has
	// unwrapped it. As a secret, it is where istiod's key is.
	Unwrapped *client.Unwrapped `json:"unwrapped,omitempty"`
}

// Obtain gets the first certificate and returns when it is published, for an init container: istiod is not running, so it may
// start under whatever root the CA has, unless other replicas run under another (package roots). Valid files of an earlier run
// are enough. When ctx ends first, the error is what kept it from succeeding.
func (a *Agent) Obtain(ctx context.Context) error {
	if err := a.start(time.Now(), machine.Config{RetryLimit: machine.PollInterval}); err != nil {
		return err
	}
	published := func() bool { return a.state.Published() != nil }
	if published() {
		a.Log.Info("Valid files are there already", "reason", notices.AlreadyPublished, "notAfter", a.set.NotAfter())
		return nil
	}
	a.roots.Current = nil // no istiod runs with that root
	a.loop(ctx, published)
	if published() {
		return nil
	}
	_, message := a.notices.Problems()
	return fmt.Errorf("no certificates for istiod: %s", cmp.Or(message, context.Cause(ctx).Error()))
}

// Run keeps the certificate fresh until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.start(time.Now(), machine.Config{KeepToken: true}); err != nil {
		return err
	}
	a.loop(ctx, func() bool { return false })
	return nil
}

func (a *Agent) loop(ctx context.Context, done func() bool) {
	for ctx.Err() == nil && !done() {
		now := time.Now()
		a.observe(now)
		step := machine.Next(a.state, now)
		switch step.Action {
		case machine.Wait:
			a.report()
			a.wait(ctx, step.Pause(now))
		case machine.CheckToken:
			a.report() // first, since the CA may be slow
			fallthrough
		default:
			event, err := a.act(ctx, step)
			a.conclude(event, err)
		}
	}
	if ctx.Err() == nil {
		a.report()
	}
}

// act performs a step. The event is nil where ctx ended before there was a result.
func (a *Agent) act(ctx context.Context, step machine.Step) (machine.Event, error) {
	switch step.Action {
	case machine.Issue:
		return a.issue(ctx, step.Reason)
	case machine.Confirm:
		return a.confirm(ctx)
	case machine.Republish:
		return machine.Republished{}, a.Directory.Publish(a.set, a.set.Note())
	case machine.PublishRoots:
		return a.publishRoots(ctx)
	case machine.CheckToken:
		return a.checkToken(ctx, time.Now()), nil
	default:
		return nil, nil
	}
}

func (a *Agent) wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	var remote <-chan struct{} // nil never receives
	if a.RemoteClusters != nil {
		remote = a.RemoteClusters.Changed()
	}
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-a.Specifications.Changed():
	case <-remote:
	}
}

// start continues with what an earlier run published.
func (a *Agent) start(now time.Time, config machine.Config) error {
	config.Seed, config.WorkloadTTL = a.Identity.Namespace+"/"+a.Identity.Pod, a.WorkloadTTL
	a.started, a.state = now, machine.New(config)
	a.notices = notices.New(a.Log, a.Reporter)
	a.roots.MultiRoot = a.MultiRoot
	a.Vault.Unwrapped = &client.Unwrapped{}
	set, err := a.Directory.Published(now)
	if errors.Is(err, cacerts.ErrEmpty) {
		return nil
	}
	if err != nil {
		if invalid, ok := errors.AsType[*cacerts.InvalidError](err); ok {
			a.roots.Current = &invalid.Trust
		}
		a.Log.Info("The published files are not valid and will be replaced", "err", err.Error())
		return nil
	}
	var n note
	if err := json.Unmarshal(set.Note(), &n); err != nil {
		a.Log.Info("The published files do not record their specification", "err", "their note is not JSON")
	}
	if n.Unwrapped != nil {
		*a.Vault.Unwrapped = *n.Unwrapped
	}
	a.uses(set)
	a.apply(machine.SetFound{Set: describe(set, n)}, now)
	return nil
}

// uses records that istiod gets a set.
func (a *Agent) uses(set *cacerts.Set) {
	trust := set.Trust()
	a.set, a.roots.Current = set, &trust
}

func (a *Agent) apply(event machine.Event, now time.Time) { a.state = a.state.After(event, now) }

// describe returns what the machine needs to know of a set.
func describe(set *cacerts.Set, n note) machine.Set {
	return machine.Set{
		Serial:    set.SerialNumber(),
		NotBefore: set.Certificate().NotBefore, NotAfter: set.NotAfter(),
		Digest: n.Digest, Renew: n.Renew, Served: n.Served,
		Root: set.RootFingerprint(), Roots: pemcerts.Fingerprints(set.Trust().Roots),
	}
}
