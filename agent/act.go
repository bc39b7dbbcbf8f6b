// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	"github.com/istiod-agent/istiod-agent/agent/roots"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// issue gets a certificate and publishes it.
func (a *Agent) issue(ctx context.Context, reason machine.Reason) (machine.Event, error) {
	a.Log.Info("Requesting a CA certificate", "why", reason, "server", a.desired.Spec.AgentCA.Vault.Server)
	a.apply(machine.IssueStarted{}, time.Now())
	specification, _ := a.state.Specified()
	known := knownRoots{mesh: func() ([]*x509.Certificate, error) { return nil, nil }}
	if a.roots.Current != nil {
		known.published = a.roots.Current.Roots
	} else {
		known.mesh = sync.OnceValues(func() ([]*x509.Certificate, error) { return readMeshRoots(ctx, a.APIServer, a.Identity.Namespace) })
		go func() { _, _ = known.mesh() }() // while the CA works
	}
	result, err := a.Source.issue(ctx, a.desired, known)
	mesh, meshErr := known.mesh()
	a.roots.Start.Mesh, a.roots.Start.MeshErr = pemcerts.Fingerprints(mesh), meshErr
	for _, warning := range result.warnings {
		a.notices.Info(notices.VaultWarning, "Vault warns: "+warning)
	}
	var event machine.Event
	if err == nil {
		event, err = a.publish(result.set, note{Digest: specification.Digest, Renew: specification.Renew}, reason)
	} else {
		event = failed(err)
	}
	for _, leftover := range result.tidy(ctx) {
		a.notices.Info(notices.NotTidied, leftover)
	}
	if err != nil && ctx.Err() != nil {
		return nil, nil //nolint:nilerr // no failure: the agent stops
	}
	return event, err
}

// publish replaces istiod's files by a set, unless istiod's roots prevent that.
func (a *Agent) publish(set *cacerts.Set, n note, reason machine.Reason) (machine.Event, error) {
	set, err := a.roots.Apply(set)
	if err == nil {
		err = a.write(set, n)
	}
	if err != nil {
		return failed(err), err
	}
	return machine.SetPublished{Set: describe(set, n), Reason: reason}, nil
}

func (a *Agent) write(set *cacerts.Set, n note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := a.Directory.Publish(set, text); err != nil {
		return &reasonError{notices.PublishFailed, err}
	}
	a.Metrics.Observe("publish", time.Since(start))
	a.uses(set)
	return nil
}

// failed returns the event of a failed attempt.
func failed(err error) machine.IssueFailed {
	if rejected, ok := errors.AsType[*roots.RejectedError](err); ok {
		kind := machine.RootRejected
		if rejected.Awaited {
			kind = machine.RootAwaited
		}
		return machine.IssueFailed{Failure: kind, Root: rejected.Root}
	}
	if reason := reasonOf(err); reason == cacerts.RootNotTrusted || reason == cacerts.RootNotPinned {
		return machine.IssueFailed{Failure: machine.RootRejected}
	}
	return machine.IssueFailed{}
}

// confirm asks istiod which CA it uses.
func (a *Agent) confirm(ctx context.Context) (machine.Event, error) {
	err := checkServed(ctx, a.IstiodAddress, a.set.Certificate(), a.state.Published().Served)
	switch {
	case err == nil:
		return machine.Confirmed{}, nil
	case ctx.Err() != nil:
		return nil, nil //nolint:nilerr // no failure: the agent stops
	}
	return machine.NotConfirmed{Other: errors.Is(err, errOtherCA)}, err
}

// publishRoots publishes istiod's certificate with other roots.
func (a *Agent) publishRoots(ctx context.Context) (machine.Event, error) {
	next, err := a.roots.Apply(a.set)
	if err != nil {
		return machine.RootsRefused{}, &reasonError{roots.RootsRefused, err}
	}
	// istiod makes a certificate for its port whenever it has read its files, and only then: a new one proves that it has
	// read these.
	served, err := readServed(ctx, a.IstiodAddress)
	if err != nil {
		return machine.RootsDelayed{}, nil //nolint:nilerr // istiod is asked again, ever more rarely
	}
	p := a.state.Published()
	n := note{Digest: p.Digest, Renew: p.Renew, Served: pemcerts.Fingerprint(served[0])}
	if err := a.write(next, n); err != nil {
		return machine.RootsDelayed{}, err
	}
	return machine.RootsPublished{Set: describe(next, n)}, nil
}

func (a *Agent) checkToken(ctx context.Context, now time.Time) machine.Event {
	found := a.Source.checkToken(ctx, a.desired, a.token, now)
	a.token = found
	if found.known {
		a.Metrics.Token(found.notAfter)
	}
	if found.renewedFor > 0 {
		a.Log.Info("Renewed the CA's token", "validFor", found.renewedFor.String())
	}
	switch {
	case found.err != nil:
		a.Log.V(1).Info("Failed to look up the CA's token", "err", found.err.Error())
	case found.problem != "":
		a.notices.Set(notices.Token, found.reason, found.problem)
	case found.known:
		a.notices.Clear(notices.Token)
		if found.warning != "" {
			a.notices.Warn(found.reason, found.warning)
		}
		if found.info != "" {
			a.notices.Info(found.reason, found.info)
		}
	}
	return machine.TokenChecked{Next: now.Add(found.next)}
}

// conclude feeds the result of a step back to the machine, and notifies people.
func (a *Agent) conclude(event machine.Event, err error) {
	if event == nil {
		return
	}
	before, now := a.state.Published(), time.Now()
	a.apply(event, now)
	p := a.state.Published()
	switch event.(type) {
	case machine.SetPublished:
		a.notices.Clear(notices.Attempt, notices.Istiod)
		a.announce(p)
	case machine.IssueFailed:
		reason := reasonOf(err)
		failures, at := a.state.Retry()
		retry := []any{"failures", failures, "retryIn", at.Sub(now).Round(100 * time.Millisecond).String()}
		a.Metrics.Renewal("failure", reason)
		if !a.notices.Set(notices.Attempt, reason, err.Error(), retry...) {
			a.Log.V(1).Info("Failed again to obtain a CA certificate", append(retry, "reason", reason)...)
		}
	case machine.Confirmed:
		if before.Reason != "" {
			a.Metrics.Renewal("success", string(before.Reason))
		}
		a.notices.Clear(notices.Istiod)
		a.notices.Info(notices.Confirmed, "istiod uses CA certificate "+p.Serial)
		debug.FreeOSMemory() // there is nothing to do now for months
	case machine.NotConfirmed:
		if p.Overdue() {
			a.notices.Set(notices.Istiod, notices.NotConfirmed, fmt.Sprintf("istiod has not loaded CA certificate %s within %s: %v", p.Serial, machine.ConfirmationLimit, err))
		}
	case machine.Republished:
		if err != nil {
			a.notices.Set(notices.Istiod, notices.PublishFailed, err.Error())
			return
		}
		a.notices.Info(notices.Republished, "istiod still uses another CA: published CA certificate "+p.Serial+" again")
	case machine.RootsPublished:
		a.notices.Clear(notices.Istiod)
		a.notices.Info(notices.RootsPublished, fmt.Sprintf("Published %d trusted roots (SHA-256 %s) with the same CA certificate %s", len(p.Roots), strings.Join(p.Roots, ", "), p.Serial))
	default: // RootsRefused, RootsDelayed, TokenChecked
		if err != nil {
			a.notices.Set(notices.Istiod, reasonOf(err), err.Error())
		}
	}
}

// announce notifies people of a published certificate and of its weaknesses.
func (a *Agent) announce(p *machine.Published) {
	at, tooShort := a.state.RenewAt()
	a.notices.Info(notices.Published, fmt.Sprintf("Published CA certificate %s (%s), valid until %s; its renewal is due at %s", p.Serial, p.Reason, utc(p.NotAfter), utc(at)))
	for _, warning := range a.set.Warnings() {
		a.notices.Warn(notices.CAWarning, warning)
	}
	if issuer := a.limitedBy(); issuer != "" {
		a.notices.Warn(notices.LimitedByIssuer, fmt.Sprintf("The CA certificate expires before the %d days of spec.certOptions.ttlDays, limited by %s; renew that certificate in time "+
			"(a root: see docs/rotation.md)", *a.desired.Spec.CertOptions.TTLDays, issuer))
	}
	if tooShort {
		a.notices.Warn(notices.LifetimeTooShort, fmt.Sprintf("The CA certificate's lifetime of %s is too short for workload certificates of %s: "+
			"some of them will outlive it; raise ttlDays, or max_lease_ttl of Vault's mount, or lower istiod's DEFAULT_WORKLOAD_CERT_TTL and --workload-ttl",
			p.NotAfter.Sub(p.NotBefore).Round(time.Second), a.WorkloadTTL))
	}
}

// reasonError is an error with the key of its log lines, events and metrics.
type reasonError struct {
	reason string
	cause  error
}

func (e *reasonError) Error() string     { return e.cause.Error() }
func (e *reasonError) Unwrap() error     { return e.cause }
func (e *reasonError) ReasonKey() string { return e.reason }

// reasonOf returns the key of an error, of the outermost where several have one.
func reasonOf(err error) string {
	if e, ok := errors.AsType[interface {
		error
		ReasonKey() string
	}](err); ok {
		return e.ReasonKey()
	}
	return notices.IssueFailed
}
