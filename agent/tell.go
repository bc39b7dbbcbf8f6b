// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// What can happen besides a Vault.Kind or a cacerts refusal: keys of log lines, events and metrics.
const (
	reasonPublished        = "Published"
	reasonConfirmed        = "Confirmed"
	reasonNotConfirmed     = "NotConfirmed"
	reasonRepublished      = "Republished"
	reasonRootChanged      = "RootChanged"
	reasonExpired          = "Expired"
	reasonPublishFailed    = "PublishFailed"
	reasonIssueFailed      = "IssueFailed"
	reasonNoSpec           = "NoSpecification"
	reasonInvalidSpec      = "InvalidSpecification"
	reasonSpecWarning      = "SpecificationWarning"
	reasonVaultWarning     = "VaultWarning"
	reasonCAWarning        = "CAWarning"
	reasonLifetimeShort    = "LifetimeTooShort"
	reasonLimited          = "LimitedByIssuer"
	reasonNotTidied        = "NotTidied"
	reasonTokenUnavailable = "TokenUnavailable"
	reasonTokenExpires     = "TokenExpires"
	reasonAlreadyThere     = "AlreadyPublished"
	// Of a root that changes in stages.
	reasonRootsPublished = "RootsPublished"
	reasonRootsRefused   = "RootsRefused"
	// Of the roots that a specification names.
	reasonRootsUnavailable = "RootsUnavailable"
)

// event is something to tell.
type event struct {
	warning         bool
	reason, message string
}

// untoldLimit is how many events are kept until it is known what they are about.
const untoldLimit = 10

const (
	// maxProblem is the bytes of a message: every mistake of a usual specification, and what the kubelet keeps of a
	// termination log (k8s.io/kubernetes pkg/kubelet/kuberuntime, MaxContainerTerminationMessageLength).
	maxProblem = 4 << 10
	// maxReported is how many messages are remembered, so that each is reported once.
	maxReported = 250
)

// problems are what is wrong now: with the specification, with the last attempt to issue, with istiod's certificate, with
// Vault's token in a Secret.
type problems struct{ specification, attempt, istiod, token problem }

type problem struct{ reason, message string }

// String is empty when nothing is wrong.
func (p problems) String() string {
	var words []string
	for _, each := range []problem{p.specification, p.attempt, p.istiod, p.token} {
		if each.message != "" && !slices.Contains(words, each.message) {
			words = append(words, each.message)
		}
	}
	return strings.Join(words, "; ")
}

// reason is that of the first problem, empty when nothing is wrong.
func (p problems) reason() string {
	return cmp.Or(p.specification.reason, p.attempt.reason, p.istiod.reason)
}

// trouble says what is wrong, once until it changes.
func (a *Agent) trouble(at *problem, reason, message string) {
	message = bounded.Text(bounded.Plain(message), maxProblem) // the author of a specification can have a long one every second
	if *at == (problem{}) {
		delete(a.said, reason+message) // it was well in between
	}
	*at = problem{reason, message}
	a.tell(true, reason, message)
}

// tell says a thing once.
func (a *Agent) tell(warning bool, reason, message string) {
	message = bounded.Text(bounded.Plain(message), maxProblem)
	if a.said[reason+message] {
		return
	}
	if len(a.said) >= maxReported { // of messages that differ each time
		clear(a.said)
	}
	a.said[reason+message] = true
	a.Log.Info(message, "reason", reason)
	if a.about != nil {
		a.Reporter.Event(a.about, warning, reason, message)
		return
	}
	a.untold = append(a.untold, event{warning, reason, message})
	if extra := len(a.untold) - untoldLimit; extra > 0 {
		a.untold = a.untold[extra:]
	}
}

// concern sets the object that is reported about, and tells what was kept for that.
func (a *Agent) concern(certificate *certificatesv1.IssuedCertificate) {
	a.about = certificate
	for _, e := range a.untold {
		a.Reporter.Event(certificate, e.warning, e.reason, e.message)
	}
	a.untold = nil
}

// rootChangedError is an answer that is in order in itself, under a root that istiod was not started with.
type rootChangedError struct{ was, is, accept string }

func (e *rootChangedError) Error() string {
	said := fmt.Sprintf("Vault's root has changed from %s to %s (SHA-256): nothing was published, since istiod refuses another root while it runs; "+
		"restore Vault's root, or change it in stages without downtime (docs/rotation.md); to let all clusters take the new root at once, restart istiod", e.was, e.is)
	if e.accept != "" {
		said += " after this command: " + e.accept
	}
	return said
}

type publishError struct{ cause error }

func (e *publishError) Error() string { return e.cause.Error() }
func (e *publishError) Unwrap() error { return e.cause }
