// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// byAge orders conflicting objects: the oldest wins, of the same age the first by namespace and name, so that every program
// chooses the same one.
func byAge(a, b metav1.Object) int {
	created := func(object metav1.Object) metav1.Time { return object.GetCreationTimestamp() }
	return cmp.Or(created(a).Compare(created(b).Time), cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// For returns the objects for a service account, oldest first, without those that are being deleted. hosts returns an object's
// SPIFFE IDs.
func For[T metav1.Object](objects []T, hosts func(T) []string, namespace, serviceAccount string) []T {
	var found []T
	for _, object := range objects {
		if object.GetDeletionTimestamp() == nil && Covers(hosts(object), namespace, serviceAccount) {
			found = append(found, object)
		}
	}
	slices.SortFunc(found, func(a, b T) int { return byAge(a, b) })
	return found
}
