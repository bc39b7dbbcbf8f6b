// SPDX-License-Identifier: Apache-2.0

// Package agent is the life of istiod's intermediate CA: find the specification, issue, verify, publish,
// confirm that istiod has it, wait, renew. What to do next is decided by Next, a pure function; the rest
// of this package does it.
//
// It never touches what istiod has but by publishing a complete, verified set in its place, and never
// replaces the root that istiod was started with.
package agent

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/vault"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// look is how often the agent looks at its files and at the clock on the wall when nothing else wakes it:
// a timer does not notice that a machine was suspended or its clock set.
const look = 30 * time.Second

// Reporter tells others what happens. Its methods do not wait for anybody.
type Reporter interface {
	// Status tells how this pod's certificate is, in full. Its conditions have no times, and lack those that follow from
	// what all pods report.
	Status(certificate *certificatesv1.IssuedCertificate, status certificatesv1.IssuedCertificateStatus)
	// Event tells once that something happened; a warning asks for a person.
	Event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, message string)
}

// Agent looks after one istiod's certificate. All fields but those not exported are to be set.
type Agent struct {
	Identity       Identity
	Specifications Specifications
	Issuer         *Issuer
	Directory      *cacerts.Directory
	Reporter       Reporter
	Metrics        *Metrics
	Log            logr.Logger
	// IstiodAddress is istiod's TLS port, as host:port.
	IstiodAddress string
	// WorkloadTTL is how long the certificates live that istiod signs.
	WorkloadTTL time.Duration
	// MultiRoot says that istiod takes other roots while it runs (its ISTIO_MULTIROOT_MESH).
	MultiRoot bool

	state State
	// wanted is the specification that is acted on; about is the object that is reported about: the same, or one
	// that cannot be acted on.
	wanted, about *certificatesv1.IssuedCertificate
	// untold are the last events from before it was known what they are about.
	untold []event
	// start is what decides about the root of an istiod that has no CA yet; meshUnknown is why start.Mesh could not be read.
	start       Start
	meshUnknown error
	// trusted are the roots that istiod is to trust, nil for that of its certificate alone.
	trusted []*x509.Certificate
	// offered is the root that Vault's last answer led to when that could not be published, empty otherwise.
	offered string
	// set is what was published last, also when it has expired or was lost: the root stays that of this one.
	set *cacerts.Set
	// issuing is why the unconfirmed certificate was issued, empty for one that an earlier agent published.
	issuing  Reason
	problems problems
	// token is Vault's token in a Secret, where the specification names one.
	token    keptToken
	reported certificatesv1.IssuedCertificateStatus
	// said is what was told already and still holds.
	said    map[string]bool
	started time.Time
	// running is true in the sidecar, which alone looks after Vault's token.
	running bool

	now atomic.Pointer[snapshot]
}

// snapshot is what the health handlers may know.
type snapshot struct {
	at       time.Time
	notAfter time.Time
	message  string
}

// note is what an agent leaves, beside the files, for the one after it.
type note struct {
	Digest string `json:"digest"`
	Renew  string `json:"renew,omitempty"`
	// Served is what istiod served before the roots alone were changed: it has not read them while it serves that.
	Served string `json:"served,omitempty"`
}

// Obtain gets the first certificate and returns when it is published, for an init container: istiod is not
// running, so whatever root Vault has may become istiod's, unless other replicas run under another (Start). Files that an
// earlier run left are enough while they are valid. When ctx ends first, the error says what kept it from succeeding.
func (a *Agent) Obtain(ctx context.Context) error {
	if err := a.takeOver(time.Now()); err != nil {
		return err
	}
	if a.state.Held != nil {
		a.Log.Info("istiod's files are there and valid already", "reason", reasonAlreadyThere, "notAfter", a.state.Held.NotAfter)
		return nil
	}
	a.set = nil // a root that no istiod runs with binds nobody
	a.state.RetryLimit = look
	a.loop(ctx, func() bool { return a.state.Held != nil })
	if a.state.Held != nil {
		return nil
	}
	return fmt.Errorf("no certificates for istiod: %s", cmp.Or(a.problems.String(), context.Cause(ctx).Error()))
}

// Run keeps the certificate fresh until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.takeOver(time.Now()); err != nil {
		return err
	}
	a.running = true
	a.loop(ctx, func() bool { return false })
	return nil
}

func (a *Agent) loop(ctx context.Context, done func() bool) {
	for ctx.Err() == nil && !done() {
		now := time.Now()
		a.observe(now)
		step := Next(a.state, now)
		switch step.Action {
		case Issue:
			a.issue(ctx, step.Reason)
		case Confirm:
			a.confirm(ctx)
		case Republish:
			a.republish()
		case Retrust:
			a.retrust(ctx)
		case Wait:
			a.report()
			if a.running {
				a.keepToken(ctx, now)
				a.report()
			}
			a.wait(ctx, earliest(step.Until, a.token.due))
		}
	}
	if ctx.Err() == nil {
		a.report()
	}
}

// earliest is the earlier of two times that are not zero, if any.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (a *Agent) wait(ctx context.Context, until time.Time) {
	pause := look
	if !until.IsZero() {
		pause = min(pause, time.Until(until))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-a.Specifications.Changed():
	}
}

// takeOver goes on with what an earlier run published.
func (a *Agent) takeOver(now time.Time) error {
	a.said = map[string]bool{}
	a.started = now
	a.state.Seed = a.Identity.Namespace + "/" + a.Identity.Pod
	a.state.WorkloadTTL = a.WorkloadTTL
	set, err := a.Directory.Published(now)
	switch {
	case errors.Is(err, cacerts.ErrEmpty):
		return nil
	case set == nil:
		a.Log.Info("what is published cannot be used and will be replaced", "cause", err.Error())
		return nil
	}
	a.set = set
	if err != nil {
		a.Log.Info("what is published is not valid any more and will be replaced", "cause", err.Error())
		return nil
	}
	var left note
	if err := json.Unmarshal(set.Note, &left); err != nil {
		a.Log.Info("what is published does not say what it was issued for", "cause", "note is not JSON")
	}
	a.hold(set, left, now)
	return nil
}

func (a *Agent) hold(set *cacerts.Set, left note, now time.Time) {
	a.set = set
	a.state.Held = &Held{
		Serial:    set.SerialNumber(),
		NotBefore: set.Certificate.NotBefore, NotAfter: set.NotAfter(),
		Digest: left.Digest, Renew: left.Renew, Served: left.Served,
		Root: set.RootFingerprint(), Roots: pemcerts.Fingerprints(set.Roots),
		ConfirmFrom: now,
	}
}

// observe takes in what may have changed by itself: the specification, the files, the time.
func (a *Agent) observe(now time.Time) {
	wanted, warnings, err := a.Specifications.Current()
	if err == nil {
		err = a.Issuer.Permit(wanted)
	}
	flag(a.Metrics.accepted, err == nil)
	if err != nil {
		a.unspecified(err, now)
	} else {
		a.problems.specification = problem{}
		a.want(wanted, now)
	}
	for _, warning := range warnings { // only now is it known what an event is about
		a.tell(true, reasonSpecWarning, warning)
	}
	if held := a.state.Held; held != nil {
		held.Lost = !a.Directory.Intact(a.set)
		if !now.Before(held.NotAfter) {
			a.trouble(&a.problems.istiod, reasonExpired, fmt.Sprintf("istiod's CA certificate expired at %s; istiod cannot sign any more", held.NotAfter.UTC().Format(time.RFC3339)))
		}
	}
	snap := &snapshot{at: now, message: a.problems.String()}
	if a.state.Held != nil && !a.state.Held.Lost {
		snap.notAfter = a.state.Held.NotAfter
	}
	a.now.Store(snap)
}

// unspecified is for a specification that is missing or cannot be acted on. One that was acted on before stays in
// force: istiod's CA must not run out because of a typing mistake.
func (a *Agent) unspecified(err error, now time.Time) {
	reason := reasonInvalidSpec
	if e, ok := errors.AsType[*SpecificationError](err); ok {
		if e.Certificate != nil {
			a.concern(e.Certificate)
		}
		if e.Missing {
			reason = reasonNoSpec
		}
		if e.Listing && now.Sub(a.started) < look {
			a.problems.specification = problem{reason, bounded.Text(err.Error(), maxProblem)} // nobody needs to hear of an answer that is just awaited
			return
		}
	}
	a.trouble(&a.problems.specification, reason, err.Error())
}

func (a *Agent) want(certificate *certificatesv1.IssuedCertificate, now time.Time) {
	a.wanted = certificate
	a.concern(certificate)
	w := Wanted{
		Digest: digest(certificate), Renew: certificate.Annotations[certificatesv1.RenewAnnotation],
		Ratio: min(*certificate.Spec.CertOptions.SecretRotationGracePeriodRatio, certificatesv1.MaxRenewalRatio), SeenAt: now,
	}
	a.trusted, _ = trustedRoots(certificate) // Prepare has refused what cannot be read
	w.Roots = pemcerts.Fingerprints(a.trusted)
	a.startWanted(startOf(certificate, a.Identity.Pod, w.Roots, now))
	old := a.state.Wanted
	if old != nil && old.Digest == w.Digest && old.Renew == w.Renew {
		if !slices.Equal(old.Roots, w.Roots) {
			a.Log.Info("the roots to trust have changed", "issuedCertificate", certificate.Name, "roots", len(w.Roots))
			a.rootsWanted(w.Roots)
		}
		return
	}
	if old == nil {
		a.Log.Info("found what is specified for this istiod", "issuedCertificate", certificate.Name, "namespace", certificate.Namespace)
	} else {
		if w.RenewedAt = old.RenewedAt; w.Renew != old.Renew && w.Renew != "" { // a request that is taken away is none
			w.RenewedAt = now
		}
		a.Log.Info("the specification has changed", "issuedCertificate", certificate.Name, "generation", certificate.Generation)
	}
	a.state.Wanted = &w
	a.rootsWanted(w.Roots)
	a.state.Failures, a.state.RootChanged, a.state.RootWaits = 0, false, false
}

// startWanted has what kept an istiod from starting under a root tried again at once when it has changed.
func (a *Agent) startWanted(start Start) {
	changed := !start.same(a.start)
	start.Mesh = a.start.Mesh
	a.start = start
	if changed && a.state.RootWaits {
		a.state.Failures, a.state.RootChanged, a.state.RootWaits = 0, false, false
	}
}

// rootsWanted has what other roots would keep from being done tried again at once.
func (a *Agent) rootsWanted(roots []string) {
	a.state.Wanted.Roots = roots
	if a.state.Held != nil {
		a.state.Held.RootsRefused = false
	}
	if a.state.RootChanged {
		a.state.Failures, a.state.RootChanged, a.state.RootWaits = 0, false, false
	}
}

func (a *Agent) issue(ctx context.Context, reason Reason) {
	a.Log.Info("getting a CA certificate from Vault", "why", reason, "server", a.wanted.Spec.AgentCA.Vault.Server)
	a.state.Paced = a.state.paced(time.Now())
	asked := note{Digest: a.state.Wanted.Digest, Renew: a.state.Wanted.Renew}
	var published []*x509.Certificate
	mesh := func() []*x509.Certificate { return nil }
	if a.set != nil {
		published = a.set.Roots
	} else {
		mesh = a.readMesh(ctx)
	}
	result, err := a.Issuer.issue(ctx, a.wanted, published, mesh)
	_ = mesh()
	for _, warning := range result.Warnings {
		a.tell(false, reasonVaultWarning, "Vault says: "+warning)
	}
	if err == nil {
		err = a.publish(result.Set, asked)
	}
	for _, left := range result.tidy(ctx) {
		a.tell(false, reasonNotTidied, left)
	}
	if err != nil {
		if ctx.Err() == nil { // what stopping cuts off is nobody's failure
			a.failed(err)
		}
		return
	}
	a.issuing = reason
	a.published(reason)
}

// readMesh reads the mesh's roots while Vault works; the function that it returns waits for them.
func (a *Agent) readMesh(ctx context.Context) func() []*x509.Certificate {
	type answer struct {
		roots []*x509.Certificate
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		roots, err := a.Issuer.meshRoots(ctx)
		answers <- answer{roots, err}
	}()
	return sync.OnceValue(func() []*x509.Certificate {
		got := <-answers
		a.meshUnknown, a.start.Mesh = got.err, pemcerts.Fingerprints(got.roots)
		return got.roots
	})
}

// publish puts a verified set in the place of the last one, unless istiod's roots are in the way.
func (a *Agent) publish(set *cacerts.Set, asked note) error {
	set, err := a.withRoots(set)
	if err != nil {
		return err
	}
	return a.put(set, asked)
}

func (a *Agent) put(set *cacerts.Set, asked note) error {
	text, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	set.Note = text
	start := time.Now()
	if err := a.Directory.Publish(set); err != nil {
		return &publishError{err}
	}
	a.Metrics.Observe("publish", time.Since(start))
	a.hold(set, asked, time.Now())
	return nil
}

func (a *Agent) published(reason Reason) {
	a.state.Failures, a.state.RootChanged, a.state.RootWaits = 0, false, false
	a.problems.attempt, a.problems.istiod = problem{}, problem{}
	a.offered = ""
	flag(a.Metrics.rootChanged, false)
	flag(a.Metrics.confirmed, false)
	held := a.state.Held
	at, tooShort := a.renewAt()
	a.tell(false, reasonPublished, fmt.Sprintf("published CA certificate %s for istiod (%s), valid until %s, to be renewed at %s",
		held.Serial, reason, held.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339)))
	for _, warning := range a.set.Warnings() {
		a.tell(true, reasonCAWarning, warning)
	}
	if issuer := a.limitedBy(); issuer != "" {
		a.tell(true, reasonLimited, fmt.Sprintf("the CA certificate does not last for the %d days of spec.certOptions.ttlDays, since it is limited by %s; renew that certificate in time "+
			"(a root: see docs/rotation.md)", *a.wanted.Spec.CertOptions.TTLDays, issuer))
	}
	if tooShort {
		a.tell(true, reasonLifetimeShort, fmt.Sprintf("the CA certificate lives for %s, which is too short for the %s that istiod's certificates live: "+
			"some of them will outlive it; raise ttlDays, or max_lease_ttl of Vault's mount, or lower istiod's DEFAULT_WORKLOAD_CERT_TTL and --workload-ttl",
			held.NotAfter.Sub(held.NotBefore).Round(time.Second), a.WorkloadTTL))
	}
}

func (a *Agent) failed(err error) {
	a.state.Failures++
	a.state.FailedAt = time.Now()
	reason := reasonIssueFailed
	a.state.RootChanged, a.state.RootWaits = false, false
	if e, ok := errors.AsType[*vault.Error](err); ok {
		reason = string(e.Kind)
	} else if e, ok := errors.AsType[*cacerts.Refusal](err); ok {
		reason = e.Reason
		a.state.RootChanged = reason == cacerts.RootNotTrusted || reason == cacerts.RootNotPinned
	} else if _, ok := errors.AsType[*tokenError](err); ok {
		reason = reasonTokenUnavailable
	} else if _, ok := errors.AsType[*publishError](err); ok {
		reason = reasonPublishFailed
	} else if _, ok := errors.AsType[*rootsUnavailableError](err); ok {
		reason = reasonRootsUnavailable
	}
	if _, ok := errors.AsType[*rootChangedError](err); ok {
		reason, a.state.RootChanged = reasonRootChanged, true
	} else if _, ok := errors.AsType[*rootsRefusedError](err); ok {
		reason, a.state.RootChanged = reasonRootsRefused, true
	} else if _, ok := errors.AsType[*rootWaitsError](err); ok {
		reason, a.state.RootChanged, a.state.RootWaits = reasonRootChanged, true, true
	}
	if !a.state.RootChanged || reason == cacerts.RootNotPinned { // nothing is to be restarted for a root that is not wanted
		a.offered = ""
	}
	flag(a.Metrics.rootChanged, a.state.RootChanged)
	a.Metrics.renewal("failure", reason)
	a.trouble(&a.problems.attempt, reason, err.Error())
	_, again := a.state.due()
	a.Log.Info("no certificate yet; trying again", "reason", reason, "failures", a.state.Failures, "in", time.Until(again).Round(100*time.Millisecond).String())
}

func (a *Agent) confirm(ctx context.Context) {
	held := a.state.Held
	err := confirm(ctx, a.IstiodAddress, a.set.Certificate, held.Served)
	held.Confirmations++
	held.TriedAt = time.Now()
	if err == nil {
		held.Confirmed, held.OtherSince = true, time.Time{}
		flag(a.Metrics.confirmed, true)
		if a.issuing != "" {
			a.Metrics.renewal("success", string(a.issuing))
			a.issuing = ""
		}
		a.problems.istiod = problem{}
		a.tell(false, reasonConfirmed, fmt.Sprintf("istiod signs under CA certificate %s", held.Serial))
		debug.FreeOSMemory() // there is nothing to do now for months
		return
	}
	switch other := errors.Is(err, errOtherCA); {
	case !other:
		held.OtherSince = time.Time{}
	case held.OtherSince.IsZero():
		held.OtherSince = held.TriedAt
	}
	if ctx.Err() == nil && held.TriedAt.Sub(held.ConfirmFrom) >= confirmationLimit {
		a.trouble(&a.problems.istiod, reasonNotConfirmed, fmt.Sprintf("istiod was not seen to use CA certificate %s within %s: %v", held.Serial, confirmationLimit, err))
	}
}

// republish puts the same set there again, for an istiod that goes on serving under another CA: it may have missed the
// one event that a swap is.
func (a *Agent) republish() {
	a.state.Held.OtherSince = time.Now()
	a.state.Held.Republished++
	if err := a.Directory.Publish(a.set); err != nil {
		a.trouble(&a.problems.istiod, reasonPublishFailed, err.Error())
		return
	}
	a.tell(false, reasonRepublished, fmt.Sprintf("istiod goes on with another CA: published CA certificate %s once more", a.state.Held.Serial))
}

// renewAt is when the published certificate is to be replaced, for whatever reason comes first.
func (a *Agent) renewAt() (at time.Time, tooShort bool) {
	h, w := a.state.Held, a.state.Wanted
	if h == nil || w == nil {
		return time.Time{}, false
	}
	_, tooShort = RenewAt(h.NotBefore, h.NotAfter, w.Ratio, a.WorkloadTTL, spread(h.Serial))
	_, at = a.state.wish()
	return at, tooShort
}
