// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
)

// conclude feeds the result of a step back to the machine, and notifies people.
func (a *Agent) conclude(event machine.Event, err error) {
	if event == nil {
		return
	}
	before, now := a.state.Published(), time.Now()
	a.apply(event, now)
	p := a.state.Published()
	switch event.(type) {
	case machine.SetPublished, machine.IssueFailed:
		a.Metrics.Pending(false)
	case machine.IssuePending:
		a.Metrics.Pending(true)
	}
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
	case machine.IssuePending:
		a.notices.Expect(notices.Attempt, reasonOf(err), err.Error())
		a.notices.Info(reasonOf(err), err.Error())
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
			"some of them will outlive it; raise ttlDays, or the CA's own limit (in Vault: max_lease_ttl of the mount), or lower istiod's DEFAULT_WORKLOAD_CERT_TTL and --workload-ttl",
			p.NotAfter.Sub(p.NotBefore).Round(time.Second), a.WorkloadTTL))
	}
}

// reasonOf returns the key of an error for log lines, events and metrics.
func reasonOf(err error) string { return cmp.Or(ca.ReasonOf(err), notices.IssueFailed) }
