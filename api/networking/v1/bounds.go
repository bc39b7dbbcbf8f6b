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
)

func (m *VirtualMesh) bounds() field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if len(m.Spec.Meshes) > MaxMeshes {
		errs = append(errs, field.TooMany(spec.Child("meshes"), len(m.Spec.Meshes), MaxMeshes))
	} else {
		for i, mesh := range m.Spec.Meshes {
			if len(mesh.Name) > maxMeshName {
				errs = append(errs, field.TooLong(spec.Child("meshes").Index(i).Child("name"), nil, maxMeshName))
			}
			if len(mesh.Namespace) > maxMeshName {
				errs = append(errs, field.TooLong(spec.Child("meshes").Index(i).Child("namespace"), nil, maxMeshName))
			}
		}
	}
	if len(m.Spec.GlobalAccessPolicy) > maxAccessPolicy {
		errs = append(errs, field.TooLong(spec.Child("globalAccessPolicy"), nil, maxAccessPolicy))
	}
	annotations := field.NewPath("metadata", "annotations")
	if len(m.Annotations[TrustedRootsAnnotation]) > maxRoots {
		errs = append(errs, field.TooLong(annotations.Key(TrustedRootsAnnotation), nil, maxRoots))
	}
	for _, short := range []string{RootRotationAnnotation, RotateFromSecretAnnotation} {
		if len(m.Annotations[short]) > maxMeshName {
			errs = append(errs, field.TooLong(annotations.Key(short), nil, maxMeshName))
		}
	}
	return errs
}
