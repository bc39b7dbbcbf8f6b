// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// maxNames is the number of objects that a message names.
const maxNames = 3

// joinNames joins the first maxNames names.
func joinNames(names []string) string {
	if more := len(names) - maxNames; more > 0 {
		return strings.Join(names[:maxNames], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

// istiod returns the istiod that a mesh name refers to. Names are not unique: a-b in namespace c and a in b-c have the
// same one. Of several Deployments, the one with the IssuedCertificate keeps the name; otherwise the name is ambiguous
// and none is used. recorded is the IssuedCertificate in the status of the VirtualMesh, which a user who creates
// IssuedCertificates elsewhere cannot forge.
func (f *clusterFacts) istiod(name string, recorded *networkingv1.StatusRef) (found deployedIstiod, others []string, ok bool) {
	candidates := f.Istiods[name]
	var holders []int
	chosen := -1
	for i, candidate := range candidates {
		if recorded != nil && recorded.Name == name && recorded.Namespace == candidate.Namespace {
			chosen = i
		}
		if f.ownerOf(candidate.Namespace, name) != "" {
			holders = append(holders, i)
		}
	}
	switch {
	case chosen >= 0:
	case recorded != nil && recorded.Name == name && f.ownerOf(recorded.Namespace, name) != "":
		// The name stays with an absent istiod as long as its IssuedCertificate exists.
	case len(candidates) == 1:
		chosen = 0
	case len(holders) == 1:
		chosen = holders[0]
	}
	for i, candidate := range candidates {
		if i != chosen {
			others = append(others, candidate.Namespace+"/"+candidate.Name)
		}
	}
	if chosen < 0 {
		return deployedIstiod{}, others, false
	}
	return candidates[chosen], others, true
}

// governing returns the VirtualMesh that controls an istiod's IssuedCertificate: its owner while the owner claims the
// mesh, otherwise the first valid claim. A claim by name precedes one by pattern, then the older precedes. An invalid
// owner keeps its IssuedCertificate: otherwise a mistake would hand the mesh to the next VirtualMesh that claims it.
func (f *clusterFacts) governing(name string, istiod deployedIstiod) (governing storedMesh, ok bool) {
	claims := f.claimsOn(name, istiod.Namespace)
	if owner, exists := f.Owners[f.ownerOf(istiod.Namespace, name)]; exists {
		if slices.ContainsFunc(claims, func(s storedMesh) bool { return s.key() == owner.key() }) || !owner.valid() {
			return owner, true
		}
	}
	for _, claim := range claims {
		if claim.valid() && len(foreignReferences(&claim.Spec, istiod.Namespace)) == 0 {
			return claim, true
		}
	}
	return storedMesh{}, false
}

// refusal explains to the author of a VirtualMesh that another one governs the mesh.
func refusal(governing storedMesh, istiod deployedIstiod) string {
	message := fmt.Sprintf("VirtualMesh %s already governs this mesh; remove the mesh from one of them", governing.key())
	if !governing.valid() || len(foreignReferences(&governing.Spec, istiod.Namespace)) > 0 {
		message += "; it is invalid, and the IssuedCertificate does not change until it is corrected or deleted"
	}
	return message
}

// valid reports whether the VirtualMesh has no mistakes.
func (s storedMesh) valid() bool {
	if len(s.Unreadable) > 0 {
		return false
	}
	mesh := s.DeepCopy()
	mesh.Spec.SetDefaults()
	_, errs := mesh.Validate()
	return len(errs) == 0
}

func older(a, b storedMesh) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.key().String(), b.key().String()))
}

// foreignReferences returns an error for each reference to another namespace. The agent would send Secrets and tokens
// of other tenants to the server of the VirtualMesh, or reveal the content of their ConfigMaps.
func foreignReferences(spec *networkingv1.VirtualMeshSpec, namespace string) (errs field.ErrorList) {
	ca := spec.IntermediateCA()
	if ca == nil {
		return nil
	}
	path := field.NewPath("spec", "mtlsConfig", "shared", "intermediateCertificateAuthority")
	check := func(path *field.Path, of string) {
		if of != "" && of != namespace {
			errs = append(errs, field.Invalid(path.Child("namespace"), of, "expected no namespace, or istiod's own, "+namespace))
		}
	}
	if roots := ca.TrustedRoots; roots != nil && roots.ConfigMapRef != nil {
		check(path.Child("trustedRoots", "configMapRef"), roots.ConfigMapRef.Namespace)
	}
	if ca.Vault == nil {
		return errs
	}
	for _, ref := range ca.Vault.References(path.Child("vault")) {
		check(ref.Path, ref.Namespace)
	}
	return errs
}
