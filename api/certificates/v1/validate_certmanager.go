// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// kind is the form of a kind's name in a CustomResourceDefinition, in the case that Go's types give it.
var kind = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]*$`)

// Validate returns every mistake in an issuer with defaults; path is its position.
func (c *CertManagerCA) Validate(path *field.Path) (warnings []string, errs field.ErrorList) {
	if errs := c.bounds(path); len(errs) > 0 {
		return nil, errs
	}
	at, ref := path.Child("issuerRef"), c.IssuerRef
	if ref == nil {
		return nil, field.ErrorList{field.Required(at, "expected the issuer of cert-manager that signs the certificate")}
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), "expected the issuer's name"))
	} else if problems := validation.IsDNS1123Subdomain(ref.Name); len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("name"), field.OmitValueType{}, strings.Join(problems, "; ")))
	}
	if problems := validation.IsDNS1123Subdomain(ref.Group); len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("group"), field.OmitValueType{}, "expected an API group: "+strings.Join(problems, "; ")))
	}
	switch {
	case !kind.MatchString(ref.Kind):
		errs = append(errs, field.Invalid(at.Child("kind"), field.OmitValueType{}, "expected a kind such as ClusterIssuer: letters and digits, a letter first"))
	case ref.Group == DefaultIssuerGroup && ref.Kind != DefaultIssuerKind && ref.Kind != "ClusterIssuer":
		errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, []string{DefaultIssuerKind, "ClusterIssuer"}))
	}
	if c.AllowUnboundedPathLength && len(errs) == 0 {
		warnings = append(warnings, fmt.Sprintf("%s: istiod's certificate may then sign further CAs; prefer an issuer whose own certificate has a path length of 1",
			path.Child("allowUnboundedPathLength")))
	}
	return warnings, errs
}
