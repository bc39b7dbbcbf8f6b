// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
)

// maxNames bounds how many objects a message names.
const maxNames = 3

// joinNames joins names, the first few of them.
func joinNames(names []string) string {
	if more := len(names) - maxNames; more > 0 {
		return strings.Join(names[:maxNames], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

// istiod returns the istiod that a mesh's name means. Names are not unique (a-b in c and a in b-c are one): among several
// Deployments the one that has the IssuedCertificate keeps it, and where that leaves a choice, none is acted on. recorded
// is the IssuedCertificate in the VirtualMesh's status, which a user who writes IssuedCertificates elsewhere cannot forge.
func (f *clusterFacts) istiod(name string, recorded *networkingv1.StatusRef) (found deployedIstiod, others []string, ok bool) {
	candidates := f.Istiods[name]
	var holders []int
	chosen := -1
	for i, candidate := range candidates {
		if recorded != nil && recorded.Name == name && recorded.Namespace == candidate.Namespace {
			chosen = i
		}
		if f.Certificates[types.NamespacedName{Namespace: candidate.Namespace, Name: name}].Owner != "" {
			holders = append(holders, i)
		}
	}
	switch {
	case chosen >= 0:
	case recorded != nil && recorded.Name == name && f.Certificates[types.NamespacedName{Namespace: recorded.Namespace, Name: name}].Owner != "":
		// The name stays with an istiod that is not there just now, as long as its IssuedCertificate is.
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

// governing returns the VirtualMesh that decides about an istiod's IssuedCertificate: the one that it was made for, as
// long as that still asks for it, else the first that can be acted on: one that has its name before one whose pattern
// matches, then the older. One that is not valid keeps what it has, whatever
// it says now, and gets nothing new: else a mistake in it would hand the mesh to the next VirtualMesh that names it.
func (f *clusterFacts) governing(name string, istiod deployedIstiod) (governing storedMesh, ok bool) {
	claims := f.claimsOn(name, istiod.Namespace)
	if owner, exists := f.Owners[f.Certificates[types.NamespacedName{Namespace: istiod.Namespace, Name: name}].Owner]; exists {
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

// refusal tells the author of a VirtualMesh that another one governs the mesh.
func refusal(governing storedMesh, istiod deployedIstiod) string {
	said := fmt.Sprintf("VirtualMesh %s already decides which CA signs for this mesh; remove the mesh from one of them", governing.key())
	if !governing.valid() || len(foreignReferences(&governing.Spec, istiod.Namespace)) > 0 {
		said += "; it is not valid now, and the IssuedCertificate stays as it is until it is corrected or deleted"
	}
	return said
}

// valid reports whether a VirtualMesh can be acted on as it is.
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
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return strings.Compare(a.key().String(), b.key().String())
}

// foreignReferences are references to Secrets, service accounts and ConfigMaps outside istiod's namespace: the agent would
// send what belongs to others to the VirtualMesh's server, or tell what is in it.
func foreignReferences(spec *networkingv1.VirtualMeshSpec, namespace string) (errs field.ErrorList) {
	ca := spec.IntermediateCA()
	if ca == nil || ca.Vault == nil {
		return nil
	}
	path := field.NewPath("spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault")
	check := func(ref *certificatesv1.ObjectRef, path *field.Path) {
		if ref != nil && ref.Namespace != "" && ref.Namespace != namespace {
			errs = append(errs, field.Invalid(path.Child("namespace"), ref.Namespace, "expected none, or istiod's own namespace, "+namespace))
		}
	}
	check(ca.Vault.TokenSecretRef, path.Child("tokenSecretRef"))
	if roots := ca.TrustedRoots; roots != nil && roots.ConfigMapRef != nil && roots.ConfigMapRef.Namespace != "" && roots.ConfigMapRef.Namespace != namespace {
		at := field.NewPath("spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "trustedRoots", "configMapRef", "namespace")
		errs = append(errs, field.Invalid(at, roots.ConfigMapRef.Namespace, "expected none, or istiod's own namespace, "+namespace))
	}
	if auth := ca.Vault.KubernetesAuth; auth != nil {
		check(auth.ServiceAccountRef, path.Child("kubernetesAuth", "serviceAccountRef"))
	}
	return errs
}
