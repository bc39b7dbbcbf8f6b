// SPDX-License-Identifier: Apache-2.0

// Package uriconstraints has the rules of name constraints for URIs (RFC 5280, section 4.2.1.10), which limit the trust domains of
// SPIFFE IDs: a constraint is a host, or after a dot the domain of hosts.
package uriconstraints

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
)

// oid identifies the extension (RFC 5280, 4.2.1.10).
var oid = asn1.ObjectIdentifier{2, 5, 29, 30}

// uriTag is a uniformResourceIdentifier in a GeneralName (RFC 5280, appendix A.2).
const uriTag = 6

// Permit reports whether one of the constraints permits a host, in any case. It is as strict as the RFC and BoringSSL
// (crypto/x509/v3_ncons.cc, nc_uri): mesh.example permits itself alone, and .mesh.example its subdomains alone. Go's
// crypto/x509 permits the subdomains of mesh.example too.
func Permit(constraints []string, host string) bool {
	host = strings.ToLower(host)
	for _, constraint := range constraints {
		constraint = strings.ToLower(constraint)
		if constraint == host || strings.HasPrefix(constraint, ".") && len(host) > len(constraint) && strings.HasSuffix(host, constraint) {
			return true
		}
	}
	return false
}

// Extension returns the critical extension that permits these constraints, for a CSR.
func Extension(permitted []string) (pkix.Extension, error) {
	type subtree struct{ Base asn1.RawValue }
	var constraints struct {
		Permitted []subtree `asn1:"tag:0"`
	}
	for _, domain := range permitted {
		constraints.Permitted = append(constraints.Permitted, subtree{asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: uriTag, Bytes: []byte(domain)}})
	}
	der, err := asn1.Marshal(constraints)
	return pkix.Extension{Id: oid, Critical: true, Value: der}, err
}
