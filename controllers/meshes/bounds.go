// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"encoding/json"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// Limits of a status. etcd stores objects of at most 1.5 MiB (--max-request-bytes), including the specification.
const (
	maxStatusLines = 20
	maxMeshLines   = 5
	// maxStatusSize is the size above which the messages of each mesh are cut to shortMessage.
	maxStatusSize, shortMessage = 512 << 10, 128
)

// bound cuts a status to a size that etcd stores, regardless of the specification.
func bound(status networkingv1.VirtualMeshStatus) networkingv1.VirtualMeshStatus {
	status.Errors = bounded.List(status.Errors, maxStatusLines)
	status.NotActedOn = bounded.List(status.NotActedOn, maxStatusLines)
	cut := func(lines, length, clusters int) {
		for key, mesh := range status.Meshes {
			mesh.Errors, mesh.Warnings = bounded.List(mesh.Errors, lines), bounded.List(mesh.Warnings, lines)
			for i := range mesh.Errors {
				mesh.Errors[i] = bounded.Text(mesh.Errors[i], length)
			}
			for i := range mesh.Warnings {
				mesh.Warnings[i] = bounded.Text(mesh.Warnings[i], length)
			}
			mesh.Message = bounded.Text(mesh.Message, length)
			mesh.Federation = mesh.Federation[:min(len(mesh.Federation), clusters)]
			for i := range mesh.Federation {
				mesh.Federation[i].Message = bounded.Text(mesh.Federation[i].Message, length)
			}
			status.Meshes[key] = mesh
		}
	}
	cut(maxMeshLines, bounded.MaxMessage, maxFederated)
	for _, clusters := range []int{maxFederated, 1} {
		if raw, err := json.Marshal(status.Meshes); err == nil && len(raw) > maxStatusSize {
			cut(1, shortMessage, clusters)
		}
	}
	return status
}
