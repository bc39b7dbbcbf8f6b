// SPDX-License-Identifier: Apache-2.0

// Package certmanager obtains istiod's CA certificate from an issuer of cert-manager: it makes a key in memory, creates a
// CertificateRequest, waits until the issuer has decided, and deletes the request. The key is in no request and no Secret.
package certmanager

import (
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/uriconstraints"
)

// Reasons: keys of log lines, events and metrics.
//
//reasons:page certmanager
const (
	// unapproved: Not a failure: no approver has decided about the request yet. The message names the request. The
	// state is `REQUESTED`.
	//
	// Remedy: `cmctl approve`, or correct the approver's policy.
	unapproved = "CertManagerWaitingForApproval"
	// undecided: Not a failure: the issuer has not answered the approved request yet, or it does not exist or is not
	// Ready. The message repeats the request's condition.
	//
	// Remedy: if it lasts, look at the issuer with `kubectl describe`.
	undecided = "CertManagerWaitingForIssuer"
	// denied: An approver denied the request: the message contains its reason.
	//
	// Remedy: change its policy, or the specification.
	denied = "CertManagerDenied"
	// failed: The issuer failed, or cannot sign CAs, such as an ACME or self-signed one: the message contains its
	// reason.
	//
	// Remedy: correct the issuer, or use another one.
	failed = "CertManagerFailed"
	// invalid: The issuer does not accept the request: the message contains its reason.
	//
	// Remedy: change the specification, or the issuer's rules.
	invalid = "CertManagerInvalidRequest"
	// badAnswer: The request is Ready, and its status is longer than 256 KiB or contains no certificate.
	//
	// Remedy: check the issuer.
	badAnswer = "CertManagerBadAnswer"
	// deleted: Another client deleted or replaced the request. The agent creates another one.
	//
	// Remedy: none. If it repeats, find out what deletes the requests.
	deleted = "CertManagerRequestDeleted"
	// absent: The API server has no `CertificateRequest`s.
	//
	// Remedy: install cert-manager.
	absent = "CertManagerNotInstalled"
	// forbidden: istiod's service account lacks a Role for `certificaterequests`.
	//
	// Remedy: set `istiodSidecar.certManager=true` in the chart.
	forbidden = "CertManagerForbidden"
	// unreachable: The API server does not answer, or refuses the request: the message contains the cause. The agent
	// retries.
	//
	// Remedy: follow the message.
	unreachable = "CertManagerUnreachable"
)

const (
	// DefaultPatience is how long one call of Issue waits for a decision, so that the agent sees a changed specification
	// meanwhile.
	DefaultPatience = 20 * time.Second
	// tidyTimeout is short, so that a deletion does not delay a renewal.
	tidyTimeout = 5 * time.Second
)

// Options are the same for all specifications.
type Options struct {
	// Pod is the name of istiod's.
	Pod string
	// PodUID is that Pod's UID, empty where it is not known. The garbage collector deletes its requests with the Pod.
	PodUID types.UID
	// Requests are the CertificateRequests of istiod's namespace, nil where there is no API server.
	Requests dynamic.ResourceInterface
	// Patience is how long Issue waits for a decision.
	Patience time.Duration
	// Observe gets the duration of each step: generate, sign.
	Observe func(step string, took time.Duration)
}

// source is one specification's issuer.
type source struct {
	Options

	of   string
	spec *certificatesv1.CertManagerCA
	// pending is the request that waits for a decision, nil without one.
	pending *pending
}

// pending is a request and its key, which is nowhere else.
type pending struct {
	name    string
	uid     types.UID
	request ca.Request
	key     []byte
	// reported is what it waits for, as the last *ca.PendingError said.
	reported string
}

// New returns the source of a valid specification with its defaults; of is the name of its IssuedCertificate.
func New(options Options, of string, spec *certificatesv1.CertManagerCA) ca.Source {
	return &source{Options: options, of: of, spec: spec}
}

// String implements ca.Source.
func (s *source) String() string {
	ref := s.spec.IssuerRef
	return fmt.Sprintf("cert-manager's %s %s", ref.Kind, ref.Name)
}

// Conditions implements ca.Source.
func (s *source) Conditions() []metav1.Condition {
	return []metav1.Condition{{
		Type: certificatesv1.TokenAudienceBoundCondition, Status: metav1.ConditionTrue,
		Reason: ca.NoServiceAccountToken, Message: "The agent sends no token to cert-manager's issuer.",
	}}
}

// Issue implements ca.Source. It returns a *ca.PendingError for a request that is not decided in time; the answer's key is nil
// then.
func (s *source) Issue(ctx context.Context, request ca.Request) (answer ca.Answer, err error) {
	if s.Requests == nil {
		return answer, errors.New("spec.agentCa.certManager: requesting a certificate needs an API server; run in a cluster or set --kubeconfig")
	}
	if s.Pod == "" {
		return answer, errors.New("spec.agentCa.certManager: expected --pod-name (POD_NAME), which distinguishes this agent's requests from those of other Pods")
	}
	if s.pending == nil || !s.pending.isFor(request) {
		if err := s.begin(ctx, request); err != nil {
			return answer, err
		}
	}
	begun := time.Now()
	status, err := s.await(ctx)
	if pending, ok := errors.AsType[*ca.PendingError](err); ok && ctx.Err() == nil {
		return answer, pending
	}
	s.Observe("sign", time.Since(begun))
	decided := s.pending
	s.pending = nil
	answer.Tidy = func(ctx context.Context) []string { return s.remove(ctx, decided) }
	answer.Issued.Key, answer.AnyPathLength = decided.key, s.spec.AllowUnboundedPathLength
	if err != nil {
		return answer, err
	}
	answer.Issued.Certificate, answer.Issued.Chain, err = status.chain()
	return answer, err
}

func (p *pending) isFor(request ca.Request) bool {
	return slices.Equal(p.request.Hosts, request.Hosts) && p.request.Organization == request.Organization &&
		p.request.TTL == request.TTL && p.request.Key == request.Key && slices.Equal(p.request.PermittedURIDomains, request.PermittedURIDomains)
}

// begin deletes what an earlier run in this Pod has left, and creates a request.
func (s *source) begin(ctx context.Context, request ca.Request) error {
	if err := s.removeLeftovers(ctx); err != nil {
		return err
	}
	s.pending = nil
	start := time.Now()
	extensions := []pkix.Extension{basicConstraints, keyUsage}
	if len(request.PermittedURIDomains) > 0 {
		nameConstraints, err := uriconstraints.Extension(request.PermittedURIDomains)
		if err != nil {
			return fmt.Errorf("encoding permittedURIDomains: %w", err)
		}
		extensions = append(extensions, nameConstraints)
	}
	key, csr, err := ca.NewKey(request, extensions...)
	if err != nil {
		return err
	}
	s.Observe("generate", time.Since(start))
	created, err := s.create(ctx, request, csr)
	if err != nil {
		clear(key)
		return err
	}
	s.pending = &pending{name: created.GetName(), uid: created.GetUID(), request: request, key: key}
	return nil
}

// What the certificate must be, for issuers that sign the CSR's extensions (RFC 5280, 4.2.1.3 and 4.2.1.9). cert-manager's own
// require that they match the CertificateRequest, and drop the path length (its pkg/util/pki/certificatetemplate.go).
var (
	basicConstraints = extension(asn1.ObjectIdentifier{2, 5, 29, 19}, struct {
		IsCA       bool
		PathLength int
	}{true, 0})
	keyUsage = extension(asn1.ObjectIdentifier{2, 5, 29, 15}, asn1.BitString{Bytes: []byte{1<<2 | 1<<1}, BitLength: 7}) // keyCertSign, cRLSign
)

func extension(id asn1.ObjectIdentifier, value any) pkix.Extension {
	der, err := asn1.Marshal(value)
	if err != nil {
		panic(err) // of constants
	}
	return pkix.Extension{Id: id, Critical: true, Value: der}
}
