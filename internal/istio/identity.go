// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// DefaultTrustDomain is that of a mesh whose MeshConfig sets none (istio.io/api/mesh/v1alpha1, trust_domain).
const DefaultTrustDomain = "cluster.local"

// Identity is a workload's SPIFFE ID in Istio's form, spiffe://<trust domain>/ns/<namespace>/sa/<service account>
// (pkg/spiffe/spiffe.go).
type Identity struct {
	TrustDomain, Namespace, ServiceAccount string
}

// parseIdentity parses a SPIFFE ID (SPIFFE-ID, section 2). It returns false for an invalid one, and for one of another form.
func parseIdentity(id string) (Identity, bool) {
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return Identity{}, false
	}
	parts := strings.Split(parsed.Path(), "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return Identity{}, false
	}
	return Identity{TrustDomain: parsed.TrustDomain().Name(), Namespace: parts[2], ServiceAccount: parts[4]}, true
}

// String returns the SPIFFE ID.
func (i Identity) String() string {
	return "spiffe://" + i.TrustDomain + "/ns/" + i.Namespace + "/sa/" + i.ServiceAccount
}

// Identities returns the identities among hosts.
func Identities(hosts []string) []Identity {
	var identities []Identity
	for _, host := range hosts {
		if identity, ok := parseIdentity(host); ok {
			identities = append(identities, identity)
		}
	}
	return identities
}

// Covers reports whether one of the hosts is the identity of a service account, in any trust domain.
func Covers(hosts []string, namespace, serviceAccount string) bool {
	return slices.ContainsFunc(hosts, func(host string) bool {
		identity, ok := parseIdentity(host)
		return ok && identity.Namespace == namespace && identity.ServiceAccount == serviceAccount
	})
}
