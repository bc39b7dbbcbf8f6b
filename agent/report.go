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

// stuck is how long the agent's loop may stand still; issuing takes a few calls of --vault-timeout each.
const stuck = 10 * time.Minute

// Healthy is nil while the agent does its work, however badly that goes.
func (a *Agent) Healthy(now time.Time) error {
	if s := a.now.Load(); s != nil && now.Sub(s.at) > stuck {
		return fmt.Errorf("the agent has stood still since %s", s.at.UTC().Format(time.RFC3339))
	}
	return nil
}

// Ready is nil while istiod has a valid CA in its files.
func (a *Agent) Ready(now time.Time) error {
	s := a.now.Load()
	switch {
	case s == nil:
		return errors.New("starting")
	case s.notAfter.IsZero() && s.message != "":
		return fmt.Errorf("istiod has no CA certificate: %s", s.message)
	case s.notAfter.IsZero():
		return errors.New("istiod has no CA certificate yet")
	case !now.Before(s.notAfter):
		return fmt.Errorf("istiod's CA certificate expired at %s", s.notAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// report sends the status when it is not what was sent last.
func (a *Agent) report() {
	if a.set != nil && a.state.Held != nil {
		at, _ := a.renewAt()
		if at.IsZero() {
			at = a.state.Held.NotAfter
		}
		a.Metrics.published(a.set, at)
	}
	if a.about == nil {
		return
	}
	status := a.status()
	if !reflect.DeepEqual(status, a.reported) {
		a.reported = status
		a.Reporter.Status(a.about, status)
	}
}

func (a *Agent) status() certificatesv1.IssuedCertificateStatus {
	mine := certificatesv1.CertificateStatus{
		Pod: a.Identity.Pod, Reason: a.problems.reason(), Error: bounded.Text(a.problems.String(), certificatesv1.MaxStatusText),
		OfferedRootFingerprint: a.offered,
	}
	state := certificatesv1.Pending
	if held := a.state.Held; held != nil {
		state = certificatesv1.Issued
		if held.Confirmed {
			state = certificatesv1.Finished
		}
		mine.SerialNumber = held.Serial
		mine.Issuer, mine.Key = bounded.Text(a.set.Certificate.Issuer.String(), certificatesv1.MaxStatusText), a.set.KeyKind()
		mine.NotBefore, mine.NotAfter = &metav1.Time{Time: held.NotBefore}, &metav1.Time{Time: held.NotAfter}
		mine.RootFingerprint, mine.TrustedRoots = held.Root, held.Roots
		mine.RootNotAfter = &metav1.Time{Time: a.set.Root().NotAfter}
		mine.LimitedBy = a.limitedBy()
		mine.Confirmed = held.Confirmed
		if held.Lost {
			mine.Reason = certificatesv1.ReasonFilesLost
			mine.Error = cmp.Or(mine.Error, "istiod's files do not hold what was published; they are replaced")
		}
		if at, _ := a.renewAt(); !at.IsZero() {
			mine.RenewAt = &metav1.Time{Time: at.Truncate(time.Second)}
		}
	}
	if mine.Error != "" {
		state = certificatesv1.Failed
	}
	status := certificatesv1.IssuedCertificateStatus{
		ObservedGeneration: a.about.Generation, State: state, Error: mine.Error,
		Certificates: []certificatesv1.CertificateStatus{mine},
	}
	if a.wanted != nil {
		condition := audienceBound(a.wanted, a.Identity)
		condition.ObservedGeneration = a.wanted.Generation
		status.Conditions = []metav1.Condition{condition}
	}
	return status
}

// limitedBy names the certificate that cuts istiod's short, empty when none does.
func (a *Agent) limitedBy() string {
	if a.wanted == nil || a.wanted.Annotations[certificatesv1.CAFromSecretAnnotation] != "" {
		return "" // nothing was requested of a CA
	}
	return a.set.LimitedBy(requestedTTL(&a.wanted.Spec))
}

// audienceBound reports whether the token that a specification has sent is of use to its receiver elsewhere.
func audienceBound(certificate *certificatesv1.IssuedCertificate, identity Identity) metav1.Condition {
	condition := metav1.Condition{Type: certificatesv1.TokenAudienceBoundCondition, Status: metav1.ConditionTrue}
	vault := certificate.Spec.AgentCA.Vault
	switch auth := vault.KubernetesAuth; {
	case auth == nil:
		condition.Reason, condition.Message = "NoServiceAccountToken", "The agent logs in with a token of Vault's own."
	case auth.Audience != "":
		condition.Reason, condition.Message = "AudienceSet", fmt.Sprintf("The agent logs in with a token for audience %s alone.", auth.Audience)
	default:
		condition.Status, condition.Reason = metav1.ConditionFalse, "NoAudience"
		account := identity.ServiceAccount
		if auth.ServiceAccountRef != nil {
			account = auth.ServiceAccountRef.Name
		}
		condition.Message = fmt.Sprintf("The agent sends a token to %s that the API server accepts too: that server can act as service account %s/%s until the token expires, and so read the Secrets that it may read. "+
			"To end that, set audience=vault in Vault's role and kubernetesAuth.audience: vault in the VirtualMesh.", vault.Server, identity.Namespace, account)
	}
	return condition
}
