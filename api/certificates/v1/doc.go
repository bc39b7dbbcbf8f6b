// SPDX-License-Identifier: Apache-2.0

// Package v1 contains Gloo Mesh's public IssuedCertificate, as far as the agent acts on it: the intermediate CA certificate of
// an istiod and the Vault that signs it; and its PodBounceDirective: the Pods to restart when the root of trust changes. Names
// and meanings are the public API's; additions of this project are marked.
//
// The package decodes, defaults and validates, without I/O. Its field comments are the output of `kubectl explain`.
//
// +kubebuilder:object:generate=true
// +groupName=certificates.mesh.gloo.solo.io
package v1
