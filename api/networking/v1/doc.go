// SPDX-License-Identifier: Apache-2.0

// Package v1 contains Gloo Mesh's public VirtualMesh, as far as it concerns trust: the meshes that share a root, and the Vault
// that signs their intermediate CAs. Names and meanings are the public API's; additions of this project are marked, and
// unsupported fields are kept and listed.
//
// The package decodes, defaults and validates, without I/O. Its field comments are the output of `kubectl explain`.
//
// +kubebuilder:object:generate=true
// +groupName=networking.mesh.gloo.solo.io
package v1
