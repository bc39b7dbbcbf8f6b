// SPDX-License-Identifier: Apache-2.0

// Package v1 is Gloo Mesh's public IssuedCertificate, as far as an agent beside
// istiod acts on it: which intermediate CA certificate istiod shall have, and
// the Vault that it comes from; and its PodBounceDirective: which pods to restart
// when the root of trust changes. Names and meanings are the public API's; what
// this project adds says so.
//
// The package decodes, defaults and validates; it talks to nobody. What the
// field's comments say is what `kubectl explain` shows.
//
// +kubebuilder:object:generate=true
// +groupName=certificates.mesh.gloo.solo.io
package v1
