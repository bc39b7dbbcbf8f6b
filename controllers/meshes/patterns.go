// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// pattern is <prefix>*-<namespace>-<cluster>. The suffix is compared as a whole, so that a pattern never matches a
// namespace whose name only ends with the given one.
type pattern struct{ prefix, suffix string }

func patternOf(ref networkingv1.MeshRef) (pattern, bool) {
	prefix, suffix, ok := ref.Pattern()
	return pattern{istio.NormalMeshName(prefix), istio.NormalMeshName(suffix)}, ok
}

func (p pattern) matches(mesh, namespace, cluster string) bool {
	return p.suffix == suffixOf(namespace, cluster) && strings.HasSuffix(mesh, p.suffix) && strings.HasPrefix(strings.TrimSuffix(mesh, p.suffix), p.prefix)
}

// key is the index key of the pattern.
func (p pattern) key() string { return "*" + p.suffix }

// suffixOf is the end of the mesh names of a namespace's istiods.
func suffixOf(namespace, cluster string) string {
	return istio.NormalMeshName("-" + namespace + "-" + cluster)
}

// keysOf returns the index keys of the VirtualMeshes that may name a mesh: its name, and the key of each pattern that
// may match it.
func keysOf(mesh string) []string {
	keys := []string{mesh}
	for i := range mesh {
		if mesh[i] == '-' {
			keys = append(keys, "*"+mesh[i:])
		}
	}
	return keys
}

// Strengths of a claim, weakest first.
const (
	noClaim = iota
	patternClaim
	nameClaim
)

// claimOn is the strength of the claim on a mesh whose istiod is in a namespace.
func (s storedMesh) claimOn(mesh, namespace, cluster string) int {
	strength := noClaim
	for _, ref := range s.Spec.Meshes {
		if p, ok := patternOf(ref); ok {
			if p.matches(mesh, namespace, cluster) {
				strength = max(strength, patternClaim)
			}
		} else if istio.NormalMeshName(ref.Name) == mesh {
			return nameClaim
		}
	}
	return strength
}

// claimsOn returns the claims on one istiod, those by name first, then the older.
func (f *clusterFacts) claimsOn(mesh, namespace string) []storedMesh {
	var claims []storedMesh
	for _, claim := range f.Claims[mesh] {
		if claim.claimOn(mesh, namespace, f.Cluster) != noClaim {
			claims = append(claims, claim)
		}
	}
	slices.SortFunc(claims, func(a, b storedMesh) int {
		return cmp.Or(cmp.Compare(b.claimOn(mesh, namespace, f.Cluster), a.claimOn(mesh, namespace, f.Cluster)), older(a, b))
	})
	return claims
}

// expand returns the named meshes and those that patterns match. A pattern that matches no istiod, or more than
// MaxMatches, gets a status of its own.
func (p *meshPlan) expand(mesh *networkingv1.VirtualMesh, facts clusterFacts) (refs []networkingv1.MeshRef, own map[string]networkingv1.MeshStatus) {
	own = map[string]networkingv1.MeshStatus{}
	seen := map[string]bool{}
	for _, ref := range mesh.Spec.Meshes {
		if _, ok := patternOf(ref); !ok {
			refs = append(refs, ref)
			seen[istio.NormalMeshName(ref.Name)] = true
		}
	}
	remaining := min(networkingv1.MaxMatches, networkingv1.MaxMeshes-len(mesh.Spec.Meshes))
	for _, ref := range mesh.Spec.Meshes {
		pattern, ok := patternOf(ref)
		if !ok {
			continue
		}
		matched, counted := p.match(pattern, facts)
		more := 0
		for _, name := range matched {
			switch {
			case seen[name]:
			case remaining == 0:
				more++
			default:
				seen[name], remaining = true, remaining-1
				refs = append(refs, networkingv1.MeshRef{Name: name, Namespace: ref.Namespace})
			}
		}
		switch {
		case more > 0:
			own[ref.Key()] = networkingv1.MeshStatus{State: networkingv1.Failed, Errors: []string{fmt.Sprintf(
				"%d matching istiods get no IssuedCertificate: patterns match at most %d; name the others, or use several VirtualMeshes", more, networkingv1.MaxMatches)}}
		case counted > 0:
		case mesh.Spec.IntermediateCA() == nil:
			own[ref.Key()] = networkingv1.MeshStatus{Message: "nothing is done: spec.mtlsConfig.shared.intermediateCertificateAuthority is absent"}
		case strings.HasSuffix(pattern.suffix, "-"+istio.NormalMeshName(facts.Cluster)):
			own[ref.Key()] = networkingv1.MeshStatus{State: networkingv1.Pending, Message: "waiting for an injected istiod Deployment that matches"}
		default:
			own[ref.Key()] = networkingv1.MeshStatus{Message: fmt.Sprintf("the mesh is not in this cluster, %s", facts.Cluster)}
		}
	}
	return refs, own
}

// match returns the meshes that a pattern matches, those with an IssuedCertificate first, and the number of injected
// istiods among them. The IssuedCertificate of an istiod that is no longer injected stays while the Deployment exists.
func (p *meshPlan) match(pattern pattern, facts clusterFacts) (names []string, injected int) {
	without := map[string]int{} // 1 for a mesh without an IssuedCertificate
	for _, name := range slices.Sorted(maps.Keys(facts.Istiods)) {
		for _, istiod := range facts.Istiods[name] {
			if !pattern.matches(name, istiod.Namespace, facts.Cluster) || slices.Contains(names, name) {
				continue
			}
			names, injected = append(names, name), injected+1
			p.Retain[name] = true
			if facts.ownerOf(istiod.Namespace, name) == "" {
				without[name] = 1
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(facts.NotSelected)) {
		for _, istiod := range facts.NotSelected[name] {
			owned := facts.ownerOf(istiod.Namespace, name) != ""
			if owned && pattern.matches(name, istiod.Namespace, facts.Cluster) && !slices.Contains(names, name) {
				names, p.Retain[name] = append(names, name), true
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(without[a]-without[b], strings.Compare(a, b)) })
	return names, injected
}
