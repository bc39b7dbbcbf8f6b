// SPDX-License-Identifier: Apache-2.0

// Package notices reports what happens: each notice once, in the log and as an Event, with one reason key and one sentence. It
// also keeps the current problems, for the status and the health checks.
//
//	level    log             Event    status and health checks
//	Error    error, key err  Warning  until the problem is cleared
//	Warning  info            Warning  no
//	Info     info            Normal   no
//
// An error needs a person now: something fails. A warning can wait: something will fail later, or not everywhere. A repetition
// is not reported again; the caller may log it at V(1). The metrics are the caller's, by the same reasons.
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

// Reasons of what succeeded: keys of log lines and events.
//
//reasons:page success
const (
	// Published: istiod's files contain a new CA.
	//
	// Remedy: none.
	Published = "Published"
	// AlreadyPublished: The init container found valid files of an earlier run in this Pod.
	//
	// Remedy: none.
	AlreadyPublished = "AlreadyPublished"
	// Confirmed: istiod is confirmed to use it: a TLS connection showed a certificate under the new CA.
	//
	// Remedy: none.
	Confirmed = "Confirmed"
	// Republished: istiod continued with another CA, so the agent published the files again.
	//
	// Remedy: none. If it repeats, see [NotConfirmed](#notconfirmed).
	Republished = "Republished"
	// RootsPublished: The agent changed the roots that istiod publishes as trusted, but not its certificate.
	//
	// Remedy: none.
	RootsPublished = "RootsPublished"
)

// Reasons of problems besides those of errors with a ReasonKey: keys of log lines, events and metrics.
//
//reasons:page problem
const (
	// NotConfirmed: istiod has not loaded the new CA certificate: the message contains its serial number and the
	// cause. While istiod uses another CA, the agent publishes the files again.
	//
	// Remedy: follow the message. With a serving certificate of your own (Secret `istiod-tls`), the agent cannot
	// confirm the CA.
	NotConfirmed = "NotConfirmed"
	// Expired: istiod's CA has expired: it cannot sign.
	//
	// Remedy: the status contains the reason of the last failed renewal: see there.
	Expired = "Expired"
	// PublishFailed: The volume at `/etc/cacerts` is full or not writable.
	//
	// Remedy: see the message. `cacerts.sizeLimit` limits the volume.
	PublishFailed = "PublishFailed"
	// IssueFailed: Any other failure to obtain a CA. As a reason of a condition: a Pod reports an error without a
	// reason of its own.
	//
	// Remedy: follow the message.
	IssueFailed = "IssueFailed"
	// NoSpec: There is no `IssuedCertificate` for this istiod, or the agent may not read it.
	//
	// Remedy: apply a [VirtualMesh](virtual-mesh.md) that names this istiod's mesh, and see its status. `kubectl
	// istiod-agent check` examines the rights.
	NoSpec = "NoSpecification"
	// InvalidSpec: The specification has mistakes. The message names each field; the last good specification stays in
	// force.
	//
	// Remedy: correct the fields, in the `VirtualMesh` that the `IssuedCertificate` comes from.
	InvalidSpec = "InvalidSpecification"
	// SpecWarning: The specification is valid, but a setting in it is unwise, such as `http://`.
	//
	// Remedy: follow the message.
	SpecWarning = "SpecificationWarning"
	// CAWarning: The CA is published, and may not work with every proxy. Its chain contains an Ed25519 key, which
	// Envoy does not offer in TLS handshakes, or a root with a SHA-1 signature, which other TLS libraries and scanners
	// may refuse. Or it has [name constraints](ca-sources.md#name-constraints), below which ztunnel rejects all
	// certificates.
	//
	// Remedy: use another key, root or setting, unless all your proxies accept it.
	CAWarning = "CAWarning"
	// LifetimeTooShort: The CA's lifetime is so short that certificates signed near its end outlive it.
	//
	// Remedy: raise `ttlDays`, or the limit of the CA that shortens it.
	LifetimeTooShort = "LifetimeTooShort"
	// LimitedByIssuer: A certificate above the CA ends before `ttlDays`; the message and the Pod's `limitedBy` name
	// it.
	//
	// Remedy: renew that certificate in time. If it is the root, [change the root of trust](rotation.md).
	LimitedByIssuer = "LimitedByIssuer"
	// NotTidied: Vault keeps a copy of the CA key, or the login token was not revoked.
	//
	// Remedy: permit the agent's policy what the message names ([Vault](vault.md#the-policy)).
	NotTidied = "NotTidied"
	// RootsUnavailable: The ConfigMap of `trustedRoots.configMapRef` cannot be read, lacks the key, or contains
	// anything but at most 20 root certificates; the message names the fault. The agent does not ask the CA.
	//
	// Remedy: correct the ConfigMap, or the agent's right to get it.
	RootsUnavailable = "RootsUnavailable"
)

const (
	// pendingLimit bounds the events that wait for the object that they regard.
	pendingLimit = 10
	// maxMessage is the bytes of a message: every mistake of a usual specification, and what the kubelet keeps of a
	// termination log (k8s.io/kubernetes pkg/kubelet/kuberuntime, MaxContainerTerminationMessageLength).
	maxMessage = 4 << 10
	// maxRemembered bounds the messages that are remembered, so that each is reported once.
	maxRemembered = 250
)

// subject is what a problem is about. Each has one problem at most.
type subject int

// The subjects, in the order in which their problems are shown.
const (
	Specification subject = iota
	Attempt               // the last attempt to issue
	Istiod                // istiod's certificate
	Token                 // the CA's token in a Secret
	subjects
)

var titles = [subjects]string{ //nolint:gosec // no credentials
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
	// about is the object that the events regard: the specification in force, or an invalid one.
	about    *certificatesv1.IssuedCertificate
	pending  []event
	problems [subjects]problem
	// reported are the notices that need no repetition.
	reported map[problem]bool
}

type event struct {
	warning bool
	problem
}

// New returns Notices without problems.
func New(log logr.Logger, recorder Recorder) *Notices {
	return &Notices{log: log, recorder: recorder, reported: map[problem]bool{}}
}

// SetAbout sets the object that the events regard, and records those that waited for it.
func (n *Notices) SetAbout(certificate *certificatesv1.IssuedCertificate) {
	n.about = certificate
	for _, e := range n.pending {
		n.recorder.Event(certificate, e.warning, e.reason, e.message)
	}
	n.pending = nil
}

// About returns the object that the events regard, nil while there is none.
func (n *Notices) About() *certificatesv1.IssuedCertificate { return n.about }

// Info reports what was done.
func (n *Notices) Info(reason, message string) { n.report(false, reason, message) }

// Warn reports what may become a problem.
func (n *Notices) Warn(reason, message string) { n.report(true, reason, message) }

func (n *Notices) report(warning bool, reason, message string) {
	if n.record(warning, reason, message) {
		n.log.Info(message, "reason", reason)
	}
}

// Set sets the problem of a subject. It returns whether that is new: the same problem is reported once until it is cleared.
func (n *Notices) Set(about subject, reason, message string, details ...any) bool {
	message = limited(message)
	p := problem{reason, message}
	if n.problems[about] == (problem{}) {
		delete(n.reported, p) // cleared in between
	}
	n.problems[about] = p
	isNew := n.record(true, reason, message)
	if isNew {
		n.log.Error(errors.New(message), titles[about], append([]any{"reason", reason}, details...)...)
	}
	return isNew
}

// Expect sets the problem of a subject for the status and health checks alone, where it will probably clear soon.
func (n *Notices) Expect(about subject, reason, message string) {
	n.problems[about] = problem{reason, limited(message)}
}

// Clear clears the problems of subjects.
func (n *Notices) Clear(cleared ...subject) {
	for _, about := range cleared {
		n.problems[about] = problem{}
	}
}

// Problems returns the messages of all problems, and the reason of the first. Both are empty where there are none.
func (n *Notices) Problems() (reason, message string) {
	var messages []string
	for about, p := range n.problems {
		if p.message != "" && !slices.Contains(messages, p.message) {
			messages = append(messages, p.message)
		}
		if subject(about) != Token { // not about the certificate itself
			reason = cmp.Or(reason, p.reason)
		}
	}
	return reason, strings.Join(messages, "; ")
}

// record records an Event, and returns false for a repetition.
func (n *Notices) record(warning bool, reason, message string) bool {
	p := problem{reason, limited(message)}
	if n.reported[p] {
		return false
	}
	if len(n.reported) >= maxRemembered { // messages that differ each time
		clear(n.reported)
	}
	n.reported[p] = true
	if n.about != nil {
		n.recorder.Event(n.about, warning, reason, p.message)
		return true
	}
	n.pending = append(n.pending, event{warning, p})
	n.pending = n.pending[max(0, len(n.pending)-pendingLimit):]
	return true
}

// limited bounds a message and makes it printable: a specification's author can cause a long one every second.
func limited(message string) string { return bounded.Text(bounded.Plain(message), maxMessage) }
