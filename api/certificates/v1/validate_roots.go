// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"crypto/x509"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Validate returns every mistake in roots with defaults; path is their position. No error quotes the content, which may
// be a key.
func (r *TrustedRoots) Validate(path *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	if errs := r.bounds(path); len(errs) > 0 {
		return errs
	}
	ref := r.ConfigMapRef
	switch {
	case r.PEM != "" && ref != nil:
		return field.ErrorList{field.Forbidden(path.Child("pem"), "expected none together with configMapRef: the roots come from one place")}
	case ref != nil:
		errs := (&ObjectRef{Name: ref.Name, Namespace: ref.Namespace}).validate(path.Child("configMapRef"))
		if problems := validation.IsConfigMapKey(ref.Key); len(problems) > 0 {
			errs = append(errs, field.Invalid(path.Child("configMapRef", "key"), field.OmitValueType{}, "expected a ConfigMap's key: "+strings.Join(problems, "; ")))
		}
		return errs
	case r.PEM == "":
		return field.ErrorList{field.Required(path.Child("pem"), "expected pem or configMapRef: the CA certificate must lead to one of these roots")}
	}
	if _, err := ParseTrustedRoots(r.PEM); err != nil {
		return field.ErrorList{field.Invalid(path.Child("pem"), field.OmitValueType{}, err.Error())}
	}
	return nil
}

// ParseTrustedRoots parses the roots of TrustedRoots, inline or from a ConfigMap. The error quotes only certificates.
func ParseTrustedRoots(text string) ([]*x509.Certificate, error) {
	const expected = "expected PEM certificates of roots, each a CA that has signed itself"
	if len(text) > MaxTrustedRootsPEM {
		return nil, fmt.Errorf("contains %d bytes, more than %d; %s", len(text), MaxTrustedRootsPEM, expected)
	}
	if strings.Contains(text, "PRIVATE KEY") {
		return nil, fmt.Errorf("holds a private key: remove and replace the key, which others may have read; %s", expected)
	}
	if n := strings.Count(text, "-----BEGIN "); n > MaxTrustedRoots {
		return nil, fmt.Errorf("contains %d certificates, more than %d; %s", n, MaxTrustedRoots, expected)
	}
	roots, err := pemcerts.ParseRoots([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("cannot be used, %w; %s", err, expected)
	}
	return roots, nil
}
