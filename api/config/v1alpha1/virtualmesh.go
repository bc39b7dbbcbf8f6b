// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"slices"
	"strings"
)

// Allows reports whether VirtualMeshes of a namespace are acted on.
func (v *VirtualMesh) Allows(namespace string) bool { return slices.Contains(v.Namespaces, namespace) }

// NotAllowed explains to the author of a VirtualMesh in another namespace why it is not acted on, and which value changes
// that. The name is cut to what a namespace may have: a review may be forged.
func (v *VirtualMesh) NotAllowed(namespace string) string {
	const most = 5
	listed := strings.Join(v.Namespaces[:min(len(v.Namespaces), most)], ", ")
	if more := len(v.Namespaces) - most; more > 0 {
		listed += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("VirtualMeshes in namespace %.63q are not acted on, only those in %s: move this one, or add %.63q to the chart's value virtualMesh.namespaces",
		namespace, listed, namespace)
}
