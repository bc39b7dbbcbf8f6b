// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// pattern matches istiods of one namespace: <prefix>*-<namespace>-<cluster>. What follows the star is compared as a whole,
// so that a pattern never reaches into a namespace whose name merely ends like the one that it names.
type pattern struct{ prefix, suffix string }

func patternOf(ref networkingv1.MeshRef) (pattern, bool) {
	prefix, suffix, ok := ref.Pattern()
	return pattern{istio.NormalMeshName(prefix), istio.NormalMeshName(suffix)}, ok
}

// matches reports whether a pattern matches the mesh of an istiod of a namespace.
func (p pattern) matches(mesh, namespace, cluster string) bool {
	return p.suffix == suffixOf(namespace, cluster) && strings.HasSuffix(mesh, p.suffix) && strings.HasPrefix(strings.TrimSuffix(mesh, p.suffix), p.prefix)
}

// key is what VirtualMeshes with a pattern are indexed by.
func (p pattern) key() string { return "*" + p.suffix }

// suffixOf is how the names of the meshes of a namespace's istiods end.
func suffixOf(namespace, cluster string) string {
	return istio.NormalMeshName("-" + namespace + "-" + cluster)
}

// keysOf are what VirtualMeshes that may name a mesh are indexed by: its name, and that of each pattern that may match it.
func keysOf(mesh string) []string {
	keys := []string{mesh}
	for i := range mesh {
		if mesh[i] == '-' {
			keys = append(keys, "*"+mesh[i:])
		}
	}
	return keys
}

// How a VirtualMesh asks for a mesh; more is stronger.
const (
	noClaim = iota
	patternClaim
	nameClaim
)

// asks is how a VirtualMesh asks for the mesh of an istiod in a namespace.
func (s storedMesh) claimOn(mesh, namespace, cluster string) int {
	how := noClaim
	for _, ref := range s.Spec.Meshes {
		if p, ok := patternOf(ref); ok {
			if p.matches(mesh, namespace, cluster) {
				how = max(how, patternClaim)
			}
		} else if istio.NormalMeshName(ref.Name) == mesh {
			return nameClaim
		}
	}
	return how
}

// asking are the claims on the mesh of one istiod, those by its name first, then the older.
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

// expanded are the meshes that a VirtualMesh names, and those that its patterns match. A pattern that matches none, or
// more than MaxMatches, has a status of its own.
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
				continue
			case remaining == 0:
				more++
				continue
			}
			seen[name], remaining = true, remaining-1
			refs = append(refs, networkingv1.MeshRef{Name: name, Namespace: ref.Namespace})
		}
		switch {
		case more > 0:
			own[ref.Key()] = networkingv1.MeshStatus{State: networkingv1.Failed, Errors: []string{fmt.Sprintf(
				"%d istiods that it matches get no IssuedCertificate: expected %d at most by patterns; name them, or spread them over several VirtualMeshes", more, networkingv1.MaxMatches)}}
		case counted > 0:
		case mesh.Spec.IntermediateCA() == nil:
			own[ref.Key()] = networkingv1.MeshStatus{Message: "nothing is done: spec.mtlsConfig.shared.intermediateCertificateAuthority is absent"}
		case strings.HasSuffix(pattern.suffix, "-"+istio.NormalMeshName(facts.Cluster)):
			own[ref.Key()] = networkingv1.MeshStatus{State: networkingv1.Pending, Message: "waiting for an injected istiod Deployment that it matches"}
		default:
			own[ref.Key()] = networkingv1.MeshStatus{Message: fmt.Sprintf("it is not in this cluster, %s", facts.Cluster)}
		}
	}
	return refs, own
}

// matched are the meshes that a pattern matches, those with an IssuedCertificate first, and how many of them have an
// injected istiod. What was made for an istiod that is not injected any more stays while its Deployment is there.
func (p *meshPlan) match(pattern pattern, facts clusterFacts) (names []string, injected int) {
	has := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(facts.Istiods)) {
		for _, istiod := range facts.Istiods[name] {
			if !pattern.matches(name, istiod.Namespace, facts.Cluster) || slices.Contains(names, name) {
				continue
			}
			names, injected = append(names, name), injected+1
			p.Retain[name] = true
			has[name] = facts.Certificates[types.NamespacedName{Namespace: istiod.Namespace, Name: name}].Owner != ""
		}
	}
	for _, name := range slices.Sorted(maps.Keys(facts.NotSelected)) {
		for _, each := range facts.NotSelected[name] {
			made := facts.Certificates[types.NamespacedName{Namespace: each.Namespace, Name: name}].Owner != ""
			if made && pattern.matches(name, each.Namespace, facts.Cluster) && !slices.Contains(names, name) {
				names, has[name] = append(names, name), true
				p.Retain[name] = true
			}
		}
	}
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case has[a] == has[b]:
			return strings.Compare(a, b)
		case has[a]:
			return -1
		}
		return 1
	})
	return names, injected
}
