// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/istiod-agent/istiod-agent/agent/roots"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Specifications provides the desired certificate. It may be older than what the API server or disk holds, and stays the
// same while those cannot be reached.
type Specifications interface {
	// Current returns the specification with its defaults, or a *SpecificationError where none can be used. The warnings are
	// for people.
	Current() (certificate *certificatesv1.IssuedCertificate, warnings []string, err error)
	// Changed has an element when the result of Current may have changed.
	Changed() <-chan struct{}
}

// Identity is that of the istiod in this pod.
type Identity struct {
	Pod, Namespace, ServiceAccount string
}

// Host returns the identity as spec.hosts contains it, for messages.
func (i Identity) Host() string {
	return istio.Identity{TrustDomain: "<trust domain>", Namespace: i.Namespace, ServiceAccount: i.ServiceAccount}.String()
}

// Choose returns the specification for this istiod. Of several it is the oldest (of the same age, the first by name), so that
// all replicas agree, and a warning names the others.
func (i Identity) Choose(all []*certificatesv1.IssuedCertificate) (mine *certificatesv1.IssuedCertificate, warning string) {
	found := istio.For(all, func(c *certificatesv1.IssuedCertificate) []string { return c.Spec.Hosts }, i.Namespace, i.ServiceAccount)
	if len(found) == 0 {
		return nil, ""
	}
	if len(found) > 1 {
		var others []string
		for _, c := range found[1:] {
			others = append(others, fmt.Sprintf("%q", c.Name))
		}
		warning = fmt.Sprintf("several IssuedCertificates are for %s: the agent uses the oldest, %q, and ignores %s; delete those that are not needed",
			i.Host(), found[0].Name, strings.Join(others, ", "))
	}
	return found[0], warning
}

// prepare returns a validated copy of a specification with its defaults.
func prepare(certificate *certificatesv1.IssuedCertificate) (prepared *certificatesv1.IssuedCertificate, warnings []string, err error) {
	prepared = certificate.DeepCopy()
	prepared.Spec.SetDefaults()
	warnings, errs := prepared.Validate()
	if len(errs) > 0 {
		return nil, warnings, &SpecificationError{Certificate: certificate, Err: errs.ToAggregate()}
	}
	if _, err := roots.Desired(prepared); err != nil {
		return nil, warnings, &SpecificationError{Certificate: certificate, Err: err}
	}
	return prepared, warnings, nil
}

// PrepareStored is prepare for an object of the API server, which may be older than a bound: a renewal ratio from MaxRenewalRatio
// to 1 is limited to MaxRenewalRatio, with a warning. A Pod that starts has no last valid specification to keep.
func PrepareStored(certificate *certificatesv1.IssuedCertificate) (prepared *certificatesv1.IssuedCertificate, warnings []string, err error) {
	var ratio float64
	if options := certificate.Spec.CertOptions; options != nil && options.SecretRotationGracePeriodRatio != nil {
		ratio = *options.SecretRotationGracePeriodRatio
	}
	if ratio <= certificatesv1.MaxRenewalRatio || ratio >= 1 {
		return prepare(certificate)
	}
	bounded := certificate.DeepCopy()
	*bounded.Spec.CertOptions.SecretRotationGracePeriodRatio = certificatesv1.MaxRenewalRatio
	if prepared, warnings, err = prepare(bounded); err != nil {
		return prepared, warnings, err
	}
	*prepared.Spec.CertOptions.SecretRotationGracePeriodRatio = ratio // the published certificate's digest includes it
	return prepared, append(warnings, fmt.Sprintf("spec.certOptions.secretRotationGracePeriodRatio: is %g, limited to %g",
		ratio, certificatesv1.MaxRenewalRatio)), nil
}

// SpecificationError is a specification that is invalid or missing.
type SpecificationError struct {
	// Missing is set where there is none.
	Missing bool
	// Listing is set besides until the API server has answered the first list.
	Listing bool
	// Certificate is the invalid one, if any.
	Certificate *certificatesv1.IssuedCertificate
	Err         error
}

func (e *SpecificationError) Error() string { return e.Err.Error() }
func (e *SpecificationError) Unwrap() error { return e.Err }

// digest covers all that a certificate depends on: a change requires another certificate.
func digest(certificate *certificatesv1.IssuedCertificate) string {
	spec := &certificate.Spec
	text, err := json.Marshal(struct {
		Hosts       []string                                         `json:"hosts"`
		CertOptions *certificatesv1.CertOptions                      `json:"certOptions"`
		AgentCA     *certificatesv1.IntermediateCertificateAuthority `json:"agentCa"`
		FromSecret  string                                           `json:"fromSecret,omitempty"`
	}{spec.Hosts, spec.CertOptions, spec.AgentCA, certificate.Annotations[certificatesv1.CAFromSecretAnnotation]})
	if err != nil {
		panic(fmt.Sprintf("a specification that was decoded cannot be encoded: %v", err))
	}
	sum := sha256.Sum256(text)
	return fmt.Sprintf("%x", sum[:16])
}
