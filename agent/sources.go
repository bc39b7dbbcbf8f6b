// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/certmanager"
	"github.com/istiod-agent/istiod-agent/agent/ca/secret"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// sourceOf returns the source that a specification names, or a *SpecificationError for one that asks for more than istiod's
// operator permits.
func (a *Agent) sourceOf(certificate *certificatesv1.IssuedCertificate) (ca.Source, error) {
	of, path := certificate.Spec.AgentCA, field.NewPath("spec", "agentCa")
	var source ca.Source
	var errs field.ErrorList
	switch {
	case of == nil || of.Vault == nil && of.CertManager == nil: // Validate refuses it
		return nil, &SpecificationError{Certificate: certificate, Err: errors.New("spec.agentCa: required")}
	case of.Vault != nil:
		source, errs = vault.New(a.Vault, of.Vault)
	default:
		source = certmanager.New(a.CertManager, certificate.Name, of.CertManager)
	}
	if roots := of.TrustedRoots; roots != nil && roots.ConfigMapRef != nil {
		errs = append(errs, ca.OwnNamespace(path.Child("trustedRoots", "configMapRef"), roots.ConfigMapRef.Namespace, a.Identity.Namespace)...)
	}
	if len(errs) > 0 {
		return nil, &SpecificationError{Certificate: certificate, Err: errs.ToAggregate()}
	}
	return source, nil
}

// nextSource returns the source of the next certificate. That is the specification's unless istiod's former CA is adopted, as a
// step of a root change.
func (a *Agent) nextSource() (source ca.Source, adopted bool) {
	if name := a.desired.Annotations[certificatesv1.CAFromSecretAnnotation]; name != "" {
		return secret.New(a.APIServer, a.Identity.Namespace, name), true
	}
	return a.source, false
}

// checkToken checks the token that the source authenticates with, and notifies people of its state.
func (a *Agent) checkToken(ctx context.Context, now time.Time) machine.Event {
	user, ok := a.source.(ca.TokenUser)
	if !ok { // the machine checks none
		return machine.TokenChecked{Next: now.Add(machine.PollInterval)}
	}
	found := user.CheckToken(ctx, now)
	if found.Known {
		a.Metrics.Token(found.NotAfter)
	}
	if found.RenewedFor > 0 {
		a.Log.Info("Renewed the CA's token", "validFor", found.RenewedFor.String())
	}
	switch {
	case found.Err != nil:
		a.Log.V(1).Info("Failed to look up the CA's token", "err", found.Err.Error())
	case found.Problem != "":
		a.Metrics.TokenProblem(true)
		a.notices.Set(notices.Token, found.Reason, found.Problem)
	case found.Known:
		a.Metrics.TokenProblem(false)
		a.notices.Clear(notices.Token)
		if found.Warning != "" {
			a.notices.Warn(found.Reason, found.Warning)
		}
		if found.Info != "" {
			a.notices.Info(found.Reason, found.Info)
		}
	}
	return machine.TokenChecked{Next: now.Add(found.Next)}
}
