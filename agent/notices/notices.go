// SPDX-License-Identifier: Apache-2.0

// Package notices tells people what happens: each notice once, in the log and as an Event, with one reason key and one
// sentence; and it keeps the problems that hold now, for the status and the health checks.
//
//	level    log             Event    status and health
//	Error    error, key err  Warning  until the problem is cleared
//	Warning  info            Warning  no
//	Info     info            Normal   no
//
// An error asks for a person now: something does not work. A warning can wait: it will not work later, or not everywhere. What
// repeats is not told again; the caller may log it at V(1). Metrics count by reason and are the caller's.
package notices

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/go-logr/logr"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// Reasons besides those of errors with a ReasonKey: keys of log lines, events and metrics.
const (
	Published        = "Published"
	Confirmed        = "Confirmed"
	NotConfirmed     = "NotConfirmed"
	Republished      = "Republished"
	RootsPublished   = "RootsPublished"
	Expired          = "Expired"
	PublishFailed    = "PublishFailed"
	IssueFailed      = "IssueFailed"
	NoSpec           = "NoSpecification"
	InvalidSpec      = "InvalidSpecification"
	SpecWarning      = "SpecificationWarning"
	VaultWarning     = "VaultWarning"
	CAWarning        = "CAWarning"
	LifetimeTooShort = "LifetimeTooShort"
	LimitedByIssuer  = "LimitedByIssuer"
	NotTidied        = "NotTidied"
	TokenUnavailable = "TokenUnavailable"
	TokenExpires     = "TokenExpires"
	RootsUnavailable = "RootsUnavailable"
)

const (
	// pendingLimit is how many events are kept until there is an object to attach them to.
	pendingLimit = 10
	// maxMessage is the bytes of a message: every mistake of a usual specification, and what the kubelet keeps of a
	// termination log (k8s.io/kubernetes pkg/kubelet/kuberuntime, MaxContainerTerminationMessageLength).
	maxMessage = 4 << 10
	// maxRemembered is how many messages are remembered, so that each is told once.
	maxRemembered = 250
)

// Area is what a problem is about. Each area has one problem at most.
type Area int

// The areas, in the order in which their problems are shown.
const (
	Specification Area = iota
	Attempt            // the last attempt to issue
	Istiod             // istiod's certificate
	Token              // the CA's token in a Secret
	areas
)

var titles = [areas]string{ //nolint:gosec // no credentials
	Specification: "No usable specification",
	Attempt:       "Failed to obtain a CA certificate",
	Istiod:        "istiod's CA needs attention",
	Token:         "The CA's token needs attention",
}

type problem struct{ reason, message string }

// Recorder records an Event about an object. It does not block.
type Recorder interface {
	Event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, message string)
}

// Notices is one agent's.
type Notices struct {
	log      logr.Logger
	recorder Recorder
	// about is the object of the events: the specification in force, or one that cannot be used.
	about    *certificatesv1.IssuedCertificate
	pending  []event
	problems [areas]problem
	// told holds what was told and still holds.
	told map[problem]bool
}

type event struct {
	warning bool
	problem
}

// New returns Notices without problems.
func New(log logr.Logger, recorder Recorder) *Notices {
	return &Notices{log: log, recorder: recorder, told: map[problem]bool{}}
}

// SetAbout sets the object of the events, and records those that were kept for it.
func (n *Notices) SetAbout(certificate *certificatesv1.IssuedCertificate) {
	n.about = certificate
	for _, e := range n.pending {
		n.recorder.Event(certificate, e.warning, e.reason, e.message)
	}
	n.pending = nil
}

// About returns the object of the events, nil while there is none.
func (n *Notices) About() *certificatesv1.IssuedCertificate { return n.about }

// Info tells that something was done.
func (n *Notices) Info(reason, message string) {
	if n.record(false, reason, message) {
		n.log.Info(message, "reason", reason)
	}
}

// Warn tells what may become a problem.
func (n *Notices) Warn(reason, message string) {
	if n.record(true, reason, message) {
		n.log.Info(message, "reason", reason)
	}
}

// Set sets the problem of an area. It reports whether that was told, as it is once until it changes or is cleared.
func (n *Notices) Set(area Area, reason, message string, details ...any) bool {
	message = limited(message)
	p := problem{reason, message}
	if n.problems[area] == (problem{}) {
		delete(n.told, p) // it was solved in between
	}
	n.problems[area] = p
	told := n.record(true, reason, message)
	if told {
		n.log.Error(errors.New(message), titles[area], append([]any{"reason", reason}, details...)...)
	}
	return told
}

// Expect sets the problem of an area for the status and health checks alone, where it is expected to be solved soon.
func (n *Notices) Expect(area Area, reason, message string) {
	n.problems[area] = problem{reason, limited(message)}
}

// Clear removes the problems of areas.
func (n *Notices) Clear(solved ...Area) {
	for _, area := range solved {
		n.problems[area] = problem{}
	}
}

// Problems returns the messages of all problems, and the reason of the first. Both are empty where there are none.
func (n *Notices) Problems() (reason, message string) {
	var messages []string
	for area, p := range n.problems {
		if p.message != "" && !slices.Contains(messages, p.message) {
			messages = append(messages, p.message)
		}
		if Area(area) != Token { // no reason of the CA's certificate
			reason = cmp.Or(reason, p.reason)
		}
	}
	return reason, strings.Join(messages, "; ")
}

// record records an event, unless it was recorded before and nothing has changed since.
func (n *Notices) record(warning bool, reason, message string) bool {
	p := problem{reason, limited(message)}
	if n.told[p] {
		return false
	}
	if len(n.told) >= maxRemembered { // of messages that differ each time
		clear(n.told)
	}
	n.told[p] = true
	if n.about != nil {
		n.recorder.Event(n.about, warning, reason, p.message)
		return true
	}
	n.pending = append(n.pending, event{warning, p})
	n.pending = n.pending[max(0, len(n.pending)-pendingLimit):]
	return true
}

// limited bounds a message and makes it safe to print: the author of a specification can have a long one every second.
func limited(message string) string { return bounded.Text(bounded.Plain(message), maxMessage) }
