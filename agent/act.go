// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	"github.com/istiod-agent/istiod-agent/agent/roots"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// issue gets a certificate and publishes it.
func (a *Agent) issue(ctx context.Context, reason machine.Reason) (machine.Event, error) {
	source, adopted := a.nextSource()
	if !a.state.Pending() {
		a.Log.Info("Requesting a CA certificate", "why", reason, "from", source.String())
	}
	a.apply(machine.IssueStarted{}, time.Now())
	specification, _ := a.state.Specified()
	known := knownRoots{mesh: func() ([]*x509.Certificate, error) { return nil, nil }}
	if a.roots.Current != nil {
		known.published = a.roots.Current.Roots
	} else {
		known.mesh = sync.OnceValues(func() ([]*x509.Certificate, error) { return readMeshRoots(ctx, a.APIServer, a.Identity.Namespace) })
		go func() { _, _ = known.mesh() }() // while the CA works
	}
	set, answer, err := a.obtain(ctx, source, adopted, known)
	mesh, meshErr := known.mesh()
	a.roots.Start.Mesh, a.roots.Start.MeshErr = pemcerts.Fingerprints(mesh), meshErr
	for _, warning := range answer.Warnings {
		a.notices.Info(warning.Reason, warning.Message)
	}
	var event machine.Event
	if err == nil {
		event, err = a.publish(set, note{Digest: specification.Digest, Renew: specification.Renew}, reason)
	} else {
		event = failed(err)
	}
	if answer.Tidy != nil {
		for _, leftover := range answer.Tidy(ctx) {
			a.notices.Info(notices.NotTidied, leftover)
		}
	}
	if err != nil && ended(ctx) {
		return nil, nil // no failure: the agent stops
	}
	return event, err
}

// ended reports whether ctx has ended. Its own timer may be late: other parts compare the deadline with the clock, and their
// error would replace the one that people need.
func ended(ctx context.Context) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() != nil || limited && !time.Now().Before(deadline)
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
	n.Unwrapped = a.unwrapped()
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := a.Directory.Publish(set, text); err != nil {
		return &ca.Error{Reason: notices.PublishFailed, Cause: err}
	}
	a.Metrics.Observe("publish", time.Since(start))
	a.uses(set)
	return nil
}

// unwrapped returns the secret id to keep for the agent after this one, nil where the specification needs none.
func (a *Agent) unwrapped() *client.Unwrapped {
	if a.desired == nil {
		return nil
	}
	from := a.desired.Spec.AgentCA
	if from == nil || from.Vault == nil || from.Vault.AppRoleAuth == nil || !from.Vault.AppRoleAuth.Wrapped || a.Vault.Unwrapped.SecretID == "" {
		return nil
	}
	return a.Vault.Unwrapped
}

// failed returns the event of an attempt without a certificate.
func failed(err error) machine.Event {
	if _, ok := errors.AsType[*ca.PendingError](err); ok {
		return machine.IssuePending{}
	}
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

// publishRoots publishes istiod's certificate with other roots.
func (a *Agent) publishRoots(ctx context.Context) (machine.Event, error) {
	next, err := a.roots.Apply(a.set)
	if err != nil {
		return machine.RootsRefused{}, &ca.Error{Reason: roots.RootsRefused, Cause: err}
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
