// SPDX-License-Identifier: Apache-2.0

package v1

import "k8s.io/apimachinery/pkg/util/validation/field"

// The limits of the CRD, which Gloo Mesh's CRD lacks. They are checked first, so that the cost of a VirtualMesh does
// not depend on its author.
const (
	// MaxMeshes is the number of meshes in a VirtualMesh.
	MaxMeshes = 1000
	// maxRoots is the size, in bytes, of TrustedRootsAnnotation: the API server's limit of all annotations.
	maxRoots        = 256 << 10
	maxMeshName     = 253
	maxAccessPolicy = 64
	// MaxMatches is the number of istiods that the patterns of one VirtualMesh match in a cluster.
	MaxMatches = 100
)

func (m *VirtualMesh) bounds() field.ErrorList {
	var errs field.ErrorList
	limit := func(path *field.Path, value string, most int) {
		if len(value) > most {
			errs = append(errs, field.TooLong(path, nil, most))
		}
	}
	spec, annotations := field.NewPath("spec"), field.NewPath("metadata", "annotations")
	if len(m.Spec.Meshes) > MaxMeshes {
		errs = append(errs, field.TooMany(spec.Child("meshes"), len(m.Spec.Meshes), MaxMeshes))
	} else {
		for i, mesh := range m.Spec.Meshes {
			limit(spec.Child("meshes").Index(i).Child("name"), mesh.Name, maxMeshName)
			limit(spec.Child("meshes").Index(i).Child("namespace"), mesh.Namespace, maxMeshName)
		}
	}
	limit(spec.Child("globalAccessPolicy"), m.Spec.GlobalAccessPolicy, maxAccessPolicy)
	limit(annotations.Key(TrustedRootsAnnotation), m.Annotations[TrustedRootsAnnotation], maxRoots)
	limit(annotations.Key(RootRotationAnnotation), m.Annotations[RootRotationAnnotation], maxMeshName)
	limit(annotations.Key(RotateFromSecretAnnotation), m.Annotations[RotateFromSecretAnnotation], maxMeshName)
	return errs
}
