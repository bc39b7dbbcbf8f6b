// SPDX-License-Identifier: Apache-2.0

// Package ca is the seam between the agent and the CAs that istiod's certificate can come from. A Source is one of them, as a
// specification names it; each kind has a room below this package. Package agent chooses the source, and does everything else
// without knowing it: verification, publication, renewal, confirmation, status.
//
// Nothing here verifies a certificate or writes a file.
package ca

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
)

// Source is a CA that one specification names, within what istiod's operator permits. It is used by one goroutine, and may keep
// what it learns from one call to the next.
type Source interface {
	// String names the CA for the log, such as Vault at https://vault.example.com.
	fmt.Stringer
	// Issue requests a certificate and waits for it. Also after an error, the answer may have something to tidy.
	//
	// An error names what was done, to what, and what a person can do; it contains no secret. An Error, or another one with a
	// method ReasonKey, has a reason of its own in the log, Events and metrics.
	Issue(ctx context.Context, request Request) (Answer, error)
	// Conditions are what the specification means as long as it is in force, for the status. They have no times and no
	// generation.
	Conditions() []metav1.Condition
}

// Request is what a certificate must be.
type Request struct {
	// Hosts are the certificate's URI names, and its only ones.
	Hosts []string
	// Organization is the subject's organization and its common name.
	Organization string
	// TTL is the requested validity; a CA may shorten it.
	TTL time.Duration
	Key cacerts.Key
	// PermittedURIDomains are the certificate's name constraints (RFC 5280, 4.2.1.10), none when empty.
	PermittedURIDomains []string
}

// Answer is the answer of a CA, which is not verified yet.
type Answer struct {
	// Issued is the certificate with its key and chain. The caller clears the key.
	Issued cacerts.Issued
	// AnyPathLength is set where the specification accepts a certificate that may sign further CAs.
	AnyPathLength bool
	// Warnings are the CA's.
	Warnings []Warning
	// More requests the rest of the chain, one PEM certificate each, where Issued does not lead to a root or to the right one.
	// It is nil for a source that has no more.
	More func(context.Context) ([][]byte, error)
	// Tidy ends what the request has left at the CA: a copy of the key, a login. The caller calls it in any case, after
	// publishing. It returns a sentence for each thing that is left. It is nil where there is nothing.
	Tidy func(context.Context) []string
}

// Warning is for people: a sentence, and its reason in the log and Events.
type Warning struct{ Reason, Message string }

// TokenUser is a Source that authenticates with a token which ends unless it is renewed.
type TokenUser interface {
	Source
	// CheckToken looks up the token, and renews it where that is due and possible.
	CheckToken(ctx context.Context, now time.Time) TokenCheck
}

// TokenCheck is the result of a check of a token.
type TokenCheck struct {
	// Next is the time until the next check.
	Next time.Duration
	// Known is set where the token's state is known, and NotAfter is its end then, zero for none.
	Known    bool
	NotAfter time.Time
	// RenewedFor is the new TTL after a renewal.
	RenewedFor time.Duration
	// Reason is the key of Problem, Warning or Info, of which at most one is set: a problem needs a person now.
	Reason, Problem, Warning, Info string
	// Err is of a check where an attempt to issue would report the same.
	Err error
}

// Reasons that sources share: keys of log lines, events and metrics.
//
//reasons:page problem
const (
	// TokenUnavailable: There is no token, secret id or client certificate for the login, or the file or Secret in the
	// specification contains something that the agent must not send; the message names it.
	//
	// Remedy: create it, or correct its name in the specification.
	TokenUnavailable = "TokenUnavailable"
	// TokenExpires: Vault's token in the Secret of `tokenSecretRef` expires and cannot be renewed, or is limited to a
	// number of calls. In the last third of its life, at most seven days before its end, the status reports it too.
	//
	// Remedy: put a new token into the Secret.
	TokenExpires = "TokenExpires"
)

// Reasons of conditions that sources share.
//
//reasons:page condition
const (
	// NoServiceAccountToken: The agent sends no service account token to the CA.
	//
	// Remedy: none.
	NoServiceAccountToken = "NoServiceAccountToken"
)

// Error is a failure with its reason, the key of log lines, events and metrics.
type Error struct {
	Reason string
	Cause  error
}

func (e *Error) Error() string { return e.Cause.Error() }
func (e *Error) Unwrap() error { return e.Cause }

// ReasonKey returns Reason.
func (e *Error) ReasonKey() string { return e.Reason }

// PendingError is a request that the CA has accepted and not decided yet. It is no failure: the next call of Issue continues with
// it.
type PendingError struct {
	// Reason is the key of what it waits for.
	Reason string
	Cause  error
}

func (e *PendingError) Error() string { return e.Cause.Error() }
func (e *PendingError) Unwrap() error { return e.Cause }

// ReasonKey returns Reason.
func (e *PendingError) ReasonKey() string { return e.Reason }

// ReasonOf returns the reason of an error, of the outermost where several have one, empty where none has.
func ReasonOf(err error) string {
	if e, ok := errors.AsType[interface {
		error
		ReasonKey() string
	}](err); ok {
		return e.ReasonKey()
	}
	return ""
}

// OwnNamespace returns an error unless a reference in a specification leads to istiod's own namespace: its author may read no
// others through the agent. Empty is the own one.
func OwnNamespace(reference *field.Path, namespace, own string) field.ErrorList {
	if namespace == "" || namespace == own {
		return nil
	}
	return field.ErrorList{field.Forbidden(reference.Child("namespace"), fmt.Sprintf("expected none, or istiod's own namespace, %s", own))}
}
