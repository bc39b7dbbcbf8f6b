// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	exampleHost = "spiffe://cluster.local/ns/istio-system/sa/istiod"

	maxTTLDays = 36500
	// maxTrustDomain is the limit of a trust domain in bytes (SPIFFE-ID, section 2.1).
	maxTrustDomain = 255
	// maxSPIFFEID is the size in bytes that every SPIFFE implementation must accept (SPIFFE-ID, section 2.3).
	maxSPIFFEID = 2048
	// maxOrgName is RFC 5280's ub-organization-name and ub-common-name.
	maxOrgName = 64
)

// rsaKeySizes in bits. Smaller keys are weak; with larger ones istiod signs only a few dozen certificates per second.
var rsaKeySizes = []uint32{2048, 3072, 4096}

// istioIdentity matches an Istio identity as a SPIFFE ID (SPIFFE-ID, section 2): trust domain, namespace, service
// account. It limits no lengths: repetition counts would make the expression 300 KB larger in memory.
var istioIdentity = regexp.MustCompile(`^spiffe://([a-z0-9._-]+)/ns/([^/]*)/sa/([^/]*)$`)

// Validate returns every mistake in an IssuedCertificate with defaults, each with its path and the expected value, and
// warnings about valid but unsafe or ineffective settings. Neither contains a token, a password or a key.
func (c *IssuedCertificate) Validate() (warnings []string, errs field.ErrorList) {
	spec, path := &c.Spec, field.NewPath("spec")
	if errs := spec.bounds(path); len(errs) > 0 {
		return nil, errs
	}
	errs = validateHosts(path.Child("hosts"), spec.Hosts)
	if spec.IssuedCertificateSecret != nil {
		errs = append(errs, field.Forbidden(path.Child("issuedCertificateSecret"),
			"expected none: the agent keeps the certificate and its key in istiod's memory and never writes them to a Secret"))
	}
	errs = append(errs, spec.validateOptions(path)...)
	if spec.CertOptions != nil {
		errs = append(errs, spec.CertOptions.ValidateHosts(path.Child("certOptions"), spec.Hosts)...)
	}
	errs = append(errs, spec.validateSource(path)...)
	if spec.AgentCA != nil {
		var sourceErrs field.ErrorList
		warnings, sourceErrs = spec.AgentCA.Validate(path.Child("agentCa"))
		errs = append(errs, sourceErrs...)
	}
	return warnings, errs
}

// Validate returns every mistake in a CA with defaults; path is its position.
func (c *IntermediateCertificateAuthority) Validate(path *field.Path) (warnings []string, errs field.ErrorList) {
	switch {
	case c.Vault == nil && c.CertManager == nil:
		return nil, field.ErrorList{field.Required(path, "expected the CA that signs the certificate: vault or certManager")}
	case c.Vault != nil && c.CertManager != nil:
		errs = append(errs, field.Forbidden(path.Child("certManager"), "expected none together with vault: the certificate comes from one CA"))
	}
	if c.Vault != nil {
		sourceWarnings, sourceErrs := c.Vault.Validate(path.Child("vault"))
		warnings, errs = append(warnings, sourceWarnings...), append(errs, sourceErrs...)
	}
	if c.CertManager != nil {
		sourceWarnings, sourceErrs := c.CertManager.Validate(path.Child("certManager"))
		warnings, errs = append(warnings, sourceWarnings...), append(errs, sourceErrs...)
	}
	return warnings, append(errs, c.TrustedRoots.Validate(path.Child("trustedRoots"))...)
}

func validateHosts(path *field.Path, hosts []string) field.ErrorList {
	if len(hosts) == 0 {
		return field.ErrorList{field.Required(path, "expected at least one SPIFFE ID such as "+exampleHost)}
	}
	var errs field.ErrorList
	seen := make(map[string]bool, len(hosts))
	for i, host := range hosts {
		if len(host) > maxSPIFFEID {
			errs = append(errs, field.TooLong(path.Index(i), nil, maxSPIFFEID))
			continue
		}
		parts := istioIdentity.FindStringSubmatch(host)
		switch {
		case seen[host]:
			errs = append(errs, field.Duplicate(path.Index(i), host))
		case parts == nil || len(parts[1]) > maxTrustDomain || len(validation.IsDNS1123Label(parts[2])) > 0 || len(validation.IsDNS1123Subdomain(parts[3])) > 0:
			errs = append(errs, field.Invalid(path.Index(i), host,
				"expected a SPIFFE ID of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>, in lower case, such as "+exampleHost))
		}
		seen[host] = true
	}
	return errs
}

// validateSource requires one CA of those that the agent supports.
func (s *IssuedCertificateSpec) validateSource(path *field.Path) field.ErrorList {
	const only = "expected none: the CA is the one in agentCa, vault or certManager"
	var errs field.ErrorList
	if s.GlooMeshCA != nil {
		errs = append(errs, field.Forbidden(path.Child("glooMeshCa"), only))
	}
	if s.SigningCertificateSecret != nil {
		errs = append(errs, field.Forbidden(path.Child("signingCertificateSecret"), only))
	}
	if s.AgentCA == nil {
		errs = append(errs, field.Required(path.Child("agentCa"), "expected the CA that signs the certificate: vault or certManager"))
	}
	return errs
}

// validateOptions reports the organization at spec.org where it was written there.
func (s *IssuedCertificateSpec) validateOptions(path *field.Path) field.ErrorList {
	if s.CertOptions == nil {
		return nil
	}
	orgPath := path.Child("certOptions", "orgName")
	if s.CertOptions.OrgName == s.Org {
		orgPath = path.Child("org")
	}
	return s.CertOptions.validate(path.Child("certOptions"), orgPath)
}

// Validate returns every mistake in options with defaults; path is their position.
func (o *CertOptions) Validate(path *field.Path) field.ErrorList {
	if errs := o.bounds(path); len(errs) > 0 {
		return errs
	}
	return o.validate(path, path.Child("orgName"))
}

func (o *CertOptions) validate(path, orgPath *field.Path) field.ErrorList {
	var errs field.ErrorList
	if days := o.TTLDays; days != nil && (*days < 1 || *days > maxTTLDays) {
		errs = append(errs, field.Invalid(path.Child("ttlDays"), *days, fmt.Sprintf("expected 1 to %d days", maxTTLDays)))
	}
	errs = append(errs, o.validateKey(path)...)
	errs = append(errs, validateOrg(orgPath, o.OrgName)...)
	errs = append(errs, o.validateURIDomains(path.Child("permittedURIDomains"))...)
	if ratio := o.SecretRotationGracePeriodRatio; ratio != nil && !(*ratio > 0 && *ratio <= MaxRenewalRatio) {
		errs = append(errs, field.Invalid(path.Child("secretRotationGracePeriodRatio"), *ratio,
			"expected more than 0 and at most 0.9: the part of the certificate's life that is left when it is renewed, such as 0.10"))
	}
	return errs
}

func (o *CertOptions) validateKey(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if o.ECKeyCurve != "" && o.ECKeyCurve != P256 && o.ECKeyCurve != P384 {
		errs = append(errs, field.NotSupported(path.Child("ecKeyCurve"), o.ECKeyCurve, []Curve{P256, P384}))
	}
	size, path := o.RSAKeySizeBytes, path.Child("rsaKeySizeBytes")
	switch {
	case size == nil:
	case o.ECKeyCurve != "":
		errs = append(errs, field.Forbidden(path, "expected none together with ecKeyCurve: a key is of one kind"))
	case *size <= 512 && slices.Contains(rsaKeySizes, *size*8):
		errs = append(errs, field.Invalid(path, *size,
			fmt.Sprintf("expected 2048, 3072 or 4096: in spite of the field's name these are bits, so that %d bytes are written %d", *size, *size*8)))
	case !slices.Contains(rsaKeySizes, *size):
		errs = append(errs, field.Invalid(path, *size, "expected 2048, 3072 or 4096; in spite of the field's name these are bits"))
	}
	return errs
}

func validateOrg(path *field.Path, org string) field.ErrorList {
	var errs field.ErrorList
	if !printable(org) || strings.TrimSpace(org) != org {
		errs = append(errs, field.Invalid(path, org, "expected printable characters, without space at either end"))
	}
	if strings.Contains(org, ",") {
		errs = append(errs, field.Invalid(path, org, "expected no comma: Vault makes two organizations of it"))
	}
	if utf8.RuneCountInString(org) > maxOrgName {
		errs = append(errs, field.Invalid(path, org, fmt.Sprintf("expected at most %d characters (RFC 5280, ub-organization-name)", maxOrgName)))
	}
	return errs
}

// printable reports whether a text fits a certificate, a header and a log line.
func printable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}
