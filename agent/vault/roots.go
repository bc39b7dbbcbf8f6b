// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"crypto/x509"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// trustPublicRoots has Mozilla's roots stand in where the system has none, as in the agent's image, for a Vault whose
// certificate a public CA signed. Only who needs them pays: parsed, they take a megabyte.
var trustPublicRoots = sync.OnceFunc(func() {
	roots := x509.NewCertPool()
	for root := range bundle.Roots() {
		certificate, err := x509.ParseCertificate(root.Certificate)
		if err != nil {
			continue // the others are as good without it
		}
		if root.Constraint == nil {
			roots.AddCert(certificate)
		} else {
			roots.AddCertWithConstraint(certificate, root.Constraint)
		}
	}
	x509.SetFallbackRoots(roots)
})
