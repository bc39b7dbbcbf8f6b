// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	"github.com/istiod-agent/istiod-agent/agent/roots"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// observe reads what may have changed by itself: the specification, the files, the time.
func (a *Agent) observe(now time.Time) {
	certificate, warnings, err := a.Specifications.Current()
	var source ca.Source
	if err == nil {
		source, err = a.sourceOf(certificate)
	}
	if err != nil {
		a.unspecified(err, now)
	} else {
		a.specified(certificate, source, now)
	}
	for _, warning := range warnings { // the events' object is known only now
		a.notices.Warn(notices.SpecWarning, warning)
	}
	health := &health{at: now}
	if p := a.state.Published(); p != nil {
		intact := a.Directory.Intact(a.set)
		a.apply(machine.FilesChecked{Intact: intact}, now)
		if intact {
			health.notAfter = p.NotAfter
		}
		if !now.Before(p.NotAfter) {
			a.notices.Set(notices.Istiod, notices.Expired, fmt.Sprintf("istiod's CA certificate expired at %s; istiod cannot sign any more", utc(p.NotAfter)))
		}
	}
	a.Metrics.State(err == nil, a.state.RootRejected())
	_, health.message = a.notices.Problems()
	a.health.Store(health)
}

// unspecified is for a specification that is missing or cannot be used. The one before stays in force: istiod's CA must not
// expire because of a typing mistake.
func (a *Agent) unspecified(err error, now time.Time) {
	reason := notices.InvalidSpec
	if e, ok := errors.AsType[*SpecificationError](err); ok {
		if e.Certificate != nil {
			a.notices.SetAbout(e.Certificate)
		}
		if e.Missing {
			reason = notices.NoSpec
		}
		if e.Listing && now.Sub(a.started) < machine.PollInterval {
			a.notices.Expect(notices.Specification, reason, err.Error())
			return
		}
	}
	a.notices.Set(notices.Specification, reason, err.Error())
}

func (a *Agent) specified(certificate *certificatesv1.IssuedCertificate, source ca.Source, now time.Time) {
	a.desired = certificate
	a.notices.Clear(notices.Specification)
	a.notices.SetAbout(certificate)
	a.roots.Desired, _ = roots.Desired(certificate) // prepare has rejected invalid ones
	fingerprints := pemcerts.Fingerprints(a.roots.Desired)
	start := roots.StartOf(certificate, a.Identity.Pod, fingerprints, now)
	if !start.Same(a.roots.Start) {
		a.apply(machine.StartConditionsChanged{}, now)
	}
	start.Mesh, start.MeshErr = a.roots.Start.Mesh, a.roots.Start.MeshErr
	stagesChanged := !slices.Equal(start.Staged, a.roots.Start.Staged)
	a.roots.Start = start

	before, found := a.state.Specified()
	_, usesToken := source.(ca.TokenUser)
	specification := machine.Specification{
		Digest: digest(certificate), Renew: certificate.Annotations[certificatesv1.RenewAnnotation],
		Ratio: min(*certificate.Spec.CertOptions.SecretRotationGracePeriodRatio, certificatesv1.MaxRenewalRatio),
		Token: usesToken, Adopted: certificate.Annotations[certificatesv1.CAFromSecretAnnotation] != "",
	}
	a.apply(machine.Specified{Specification: specification}, now)
	a.apply(machine.RootsSpecified{Roots: fingerprints}, now)
	if specification.Digest != before.Digest { // else the source may continue
		a.source = source
	}
	if !specification.Token {
		a.notices.Clear(notices.Token)
		a.Metrics.Token(time.Time{})
		a.Metrics.TokenProblem(false)
	}
	switch {
	case !found:
		a.Log.Info("Found the specification of this istiod", "issuedCertificate", certificate.Name, "namespace", certificate.Namespace)
	case before != specification:
		a.Log.Info("The specification has changed", "issuedCertificate", certificate.Name, "generation", certificate.Generation)
	case stagesChanged:
		a.Log.Info("The roots to trust have changed", "issuedCertificate", certificate.Name, "roots", len(fingerprints))
	}
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }
