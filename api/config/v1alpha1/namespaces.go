// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"slices"
)

// Everywhere reports whether the controllers act in all namespaces.
func (c *InjectionConfiguration) Everywhere() bool { return len(c.Namespaces) == 0 }

// Covers reports whether the controllers act in a namespace.
func (c *InjectionConfiguration) Covers(namespace string) bool {
	return c.Everywhere() || slices.Contains(c.Namespaces, namespace)
}

// NotCovered describes what is missing in a labelled namespace that Covers excludes, and the value that changes it. The name
// is cut to the length of a namespace's: a review may be forged.
func (c *InjectionConfiguration) NotCovered(namespace string) string {
	return fmt.Sprintf("namespace %.63q is labelled, but not in the chart's value rbac.namespaces: istiod is injected there, but the webhook's controllers may not act in it, "+
		"so that no IssuedCertificate is created, and istiod waits in Init for one; add the namespace to rbac.namespaces", namespace)
}
