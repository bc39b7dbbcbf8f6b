// SPDX-License-Identifier: Apache-2.0

// Package v1 is Gloo Mesh's public VirtualMesh, as far as it concerns trust: which
// meshes share a root, and the Vault that signs each one's intermediate CA. Its
// names and meanings are the public API's; what this project adds says so, and
// what it does not act on is kept and listed.
//
// The package decodes, defaults and validates; it talks to nobody. What the
// field's comments say is what `kubectl explain` shows.
//
// +kubebuilder:object:generate=true
// +groupName=networking.mesh.gloo.solo.io
package v1
