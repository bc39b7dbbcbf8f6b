// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/internal/strict"
)

// MaxFileSize is the most that Decode reads, in bytes: an API server takes no
// larger object either.
const MaxFileSize = strict.MaxFileSize

// Decode reads a VirtualMesh from a file's content, one document in YAML or JSON.
// Unlike an API server it refuses a field that it does not know, which is most
// often a misspelt one, and it names every mistake with its path. No error quotes
// a value: it may be a token in the wrong place. A status is not read, and nothing
// needs a name. Defaults are not filled in.
func Decode(content []byte) (*VirtualMesh, error) {
	return strict.Object[VirtualMesh](content, GroupVersion.String(), Kind)
}

// FromObject reads a VirtualMesh as an API server has it or is asked to have it.
// A CRD of Gloo Mesh's that checks little may have let anything in: errs are parts
// of the wrong type, which are left out, so that one such object keeps nobody from
// reading the others. Warnings are about unknown fields, which are kept there and
// not acted on. Neither quotes a value. The status is not read: the public
// implementation writes parts of it in another type.
func FromObject(object map[string]any) (mesh *VirtualMesh, warnings []string, errs field.ErrorList) {
	if spec, ok := object["spec"].(map[string]any); ok {
		if meshes, ok := spec["meshes"].([]any); ok && len(meshes) > MaxMeshes { // not looked at one by one
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
