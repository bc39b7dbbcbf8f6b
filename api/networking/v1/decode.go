// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/internal/strict"
)

// MaxFileSize is the size, in bytes, of the largest file that Decode reads; an API server takes no larger object
// either.
const MaxFileSize = strict.MaxFileSize

// Decode reads a VirtualMesh from a file: one document in YAML or JSON. Unlike an API server it rejects unknown fields,
// which are mostly misspelt, and reports every mistake with its path. No error quotes a value, which may be a misplaced
// token. It ignores the status, requires no name and sets no defaults.
func Decode(content []byte) (*VirtualMesh, error) {
	return strict.Object[VirtualMesh](content, GroupVersion.String(), Kind)
}

// FromObject reads a stored VirtualMesh, or one in an admission request. Gloo Mesh's CRD admits fields of any type:
// errs reports those of a wrong type, which are left out. Warnings are about unknown fields. Neither quotes a value. It
// ignores the status, parts of which Gloo Mesh writes in another type.
func FromObject(object map[string]any) (mesh *VirtualMesh, warnings []string, errs field.ErrorList) {
	if spec, ok := object["spec"].(map[string]any); ok {
		if meshes, ok := spec["meshes"].([]any); ok && len(meshes) > MaxMeshes {
			mesh, _, _ = strict.Stored[VirtualMesh](map[string]any{"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": object["metadata"]})
			return mesh, nil, field.ErrorList{field.TooMany(field.NewPath("spec", "meshes"), len(meshes), MaxMeshes)}
		}
	}
	mesh, unknown, errs := strict.Stored[VirtualMesh](object)
	for _, mistake := range unknown {
		warnings = append(warnings, notActedOn(mistake.Field, "there is no such field; it may be misspelt"))
	}
	return mesh, warnings, errs
}
