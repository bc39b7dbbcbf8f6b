// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// report sends the status when it differs from the last one, and updates the metrics of the published set.
func (a *Agent) report() {
	if p := a.state.Published(); p != nil {
		at, _ := a.state.RenewAt()
		if at.IsZero() {
			at = p.NotAfter
		}
		a.Metrics.Published(a.set, at, p.Confirmed)
	}
	a.Metrics.RemoteClusters(a.remoteClusters())
	about := a.notices.About()
	if about == nil {
		return
	}
	status := a.status(about.Generation)
	if !reflect.DeepEqual(status, a.reported) {
		a.reported = status
		a.Reporter.Status(about, status)
	}
}

func (a *Agent) status(generation int64) certificatesv1.IssuedCertificateStatus {
	reason, message := a.notices.Problems()
	mine := certificatesv1.CertificateStatus{
		Pod: a.Identity.Pod, Reason: reason, Error: bounded.Text(message, certificatesv1.MaxStatusText),
		OfferedRootFingerprint: a.state.RejectedRoot(), RemoteClusters: a.remoteClusters(),
	}
	if p := a.state.Published(); p != nil {
		mine.SerialNumber = p.Serial
		mine.Issuer, mine.Key = bounded.Text(a.set.Certificate().Issuer.String(), certificatesv1.MaxStatusText), a.set.KeyKind()
		mine.NotBefore, mine.NotAfter = &metav1.Time{Time: p.NotBefore}, &metav1.Time{Time: p.NotAfter}
		mine.RootFingerprint, mine.TrustedRoots = p.Root, p.Roots
		mine.RootNotAfter = &metav1.Time{Time: a.set.Root().NotAfter}
		mine.LimitedBy = a.limitedBy()
		mine.Confirmed = p.Confirmed
		if p.Lost {
			mine.Reason = certificatesv1.ReasonFilesLost
			mine.Error = cmp.Or(mine.Error, "istiod's files differ from the published set and will be replaced")
		}
		if at, _ := a.state.RenewAt(); !at.IsZero() {
			mine.RenewAt = &metav1.Time{Time: at.Truncate(time.Second)}
		}
	}
	state := mine.State()
	if a.state.Pending() {
		state = certificatesv1.Requested
	}
	status := certificatesv1.IssuedCertificateStatus{
		ObservedGeneration: generation, State: state, Error: mine.Error,
		Certificates: []certificatesv1.CertificateStatus{mine},
	}
	if a.desired != nil {
		status.Conditions = append(a.source.Conditions(), a.unlimited()...)
		for i := range status.Conditions {
			status.Conditions[i].ObservedGeneration = a.desired.Generation
		}
	}
	return status
}

func (a *Agent) remoteClusters() *certificatesv1.RemoteClusters {
	if a.RemoteClusters == nil {
		return nil
	}
	return a.RemoteClusters.Latest()
}

// limitedBy names the certificate that limits the validity of istiod's, empty where none does.
func (a *Agent) limitedBy() string {
	if a.desired == nil || a.desired.Annotations[certificatesv1.CAFromSecretAnnotation] != "" {
		return "" // it was not requested from a CA
	}
	return a.set.LimitedBy(requestedTTL(&a.desired.Spec))
}

// Reasons of conditions besides those that package certificatesv1 derives.
//
//reasons:page condition
const (
	// reasonUnboundedPathLength: istiod's CA has no path length of 0, and no issuer above limits it to that: it may
	// sign further CAs.
	//
	// Remedy: use an issuer whose own certificate has a [path length](cert-manager.md#path-length) of 1, and remove
	// `allowUnboundedPathLength`.
	reasonUnboundedPathLength = "UnboundedPathLength"
)

// unlimited returns the condition that istiod's CA may sign further CAs, where the source gave such a one.
func (a *Agent) unlimited() []metav1.Condition {
	if _, adopted := a.nextSource(); adopted || a.state.Published() == nil || a.set.SignsNoCAs() {
		return nil
	}
	return []metav1.Condition{{
		Type: certificatesv1.PathLengthLimitedCondition, Status: metav1.ConditionFalse, Reason: reasonUnboundedPathLength,
		Message: fmt.Sprintf("istiod's CA certificate %s has no path length of 0, and no issuer above limits it to that: it may sign further CAs. "+
			"Use an issuer whose own certificate has a path length of 1, and remove allowUnboundedPathLength.", a.set.SerialNumber()),
	}}
}

// stuck is the longest pause of the agent's loop; issuing takes a few calls of --vault-timeout each.
const stuck = 10 * time.Minute

// health is what the health handlers read while the agent works.
type health struct {
	at       time.Time
	notAfter time.Time // of istiod's files, zero where they are not valid
	message  string    // of all problems
}

// Healthy returns an error while the agent's loop stands still. Failures to issue are no reason.
func (a *Agent) Healthy(now time.Time) error {
	if s := a.health.Load(); s != nil && now.Sub(s.at) > stuck {
		return fmt.Errorf("the agent has made no progress since %s", utc(s.at))
	}
	return nil
}

// Ready returns an error while istiod has no valid CA in its files.
func (a *Agent) Ready(now time.Time) error {
	s := a.health.Load()
	switch {
	case s == nil:
		return errors.New("starting")
	case s.notAfter.IsZero() && s.message != "":
		return fmt.Errorf("istiod has no CA certificate: %s", s.message)
	case s.notAfter.IsZero():
		return errors.New("istiod has no CA certificate yet")
	case !now.Before(s.notAfter):
		return fmt.Errorf("istiod's CA certificate expired at %s", utc(s.notAfter))
	}
	return nil
}
