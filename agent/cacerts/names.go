// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
)

// subjectAltName is the extension's identifier (RFC 5280, 4.2.1.6).
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// uriTag is a uniformResourceIdentifier in a GeneralName (RFC 5280, appendix A.2).
const uriTag = 6

// nameTypes are the types of a GeneralName, by tag.
var nameTypes = []string{"otherName", "e-mail", "DNS", "X.400", "directory", "EDI", "URI", "IP", "registered ID"}

func (r Request) checkNames(certificate *x509.Certificate) error {
	uris, others, err := subjectNames(certificate)
	if err != nil {
		return err
	}
	expected := slices.Clone(r.Hosts)
	slices.Sort(uris)
	slices.Sort(expected)
	if !slices.Equal(uris, expected) || len(others) > 0 {
		return refuse(wrongNames, "its names are URIs %q and [%s]; expected the URIs %q alone", uris, strings.Join(others, ", "), expected)
	}
	if got := certificate.Subject.Organization; len(got) != 1 || got[0] != r.Organization {
		return refuse(wrongOrganization, "its organization is %q; expected %q", got, r.Organization)
	}
	return nil
}

// subjectNames returns the certificate's subject alternative names: the URIs, and the types of all others. crypto/x509 omits the
// types that it does not know.
func subjectNames(certificate *x509.Certificate) (uris, others []string, err error) {
	for _, extension := range certificate.Extensions {
		if !extension.Id.Equal(subjectAltName) {
			continue
		}
		var all []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &all); err != nil || len(rest) > 0 {
			return nil, nil, refuse(wrongNames, "its subject alternative names cannot be read")
		}
		for _, name := range all {
			switch {
			case name.Class == asn1.ClassContextSpecific && name.Tag == uriTag:
				uris = append(uris, string(name.Bytes))
			case name.Class == asn1.ClassContextSpecific && name.Tag < len(nameTypes):
				others = append(others, nameTypes[name.Tag])
			default:
				others = append(others, fmt.Sprintf("an unknown type (%d)", name.Tag))
			}
		}
	}
	return uris, others, nil
}
