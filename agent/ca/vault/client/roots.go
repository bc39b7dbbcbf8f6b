// SPDX-License-Identifier: Apache-2.0

package client

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// trustPublicRoots sets Mozilla's roots as the fallback where the system has none, as in the agent's image, for a Vault with a
// certificate of a public CA. Parsed, they take a megabyte, so that only such an agent loads them.
var trustPublicRoots = sync.OnceFunc(func() {
	roots := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // the others do not depend on it
		}
		if root.Constraint == nil {
			roots.AddCert(certificate)
		} else {
			roots.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	x509.SetFallbackRoots(roots)
})
