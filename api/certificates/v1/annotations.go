// SPDX-License-Identifier: Apache-2.0

package v1

// RenewAnnotation on an IssuedCertificate asks for a new certificate each time that its value changes. A change of the
// specification in the ten minutes after is not spread over the replicas either.
const RenewAnnotation = "istiod-agent.io/renew"

// Annotations of an IssuedCertificate that have istiod's root of trust change in stages. They are annotations, not
// fields, so that they stay where Gloo Mesh's own CRD drops the fields that it does not know.
const (
	// TrustedRootsAnnotation holds PEM certificates of all roots that istiod shall publish as trusted, the old ones
	// first. The one that the CA certificate leads to must be among them. Without it, that one alone is trusted.
	TrustedRootsAnnotation = "istiod-agent.io/trusted-roots"
	// CAFromSecretAnnotation names a Secret in istiod's namespace with the CA that istiod has used so far, by the names
	// of Istio's files: ca-cert.pem, ca-key.pem and, unless the CA is a root itself, cert-chain.pem. While it is set,
	// istiod goes on with that CA and spec.agentCa waits.
	CAFromSecretAnnotation = "istiod-agent.io/ca-from-secret" //nolint:gosec // the name of an annotation
)

// AcceptRootAnnotation of an IssuedCertificate allows istiods that start to have a certificate under a root that the mesh
// does not publish yet, while other replicas run under the one before. Its value is the SHA-256 of that root certificate
// (DER) in hexadecimal: another root needs another value.
const AcceptRootAnnotation = "istiod-agent.io/accept-root"

// RestartAnnotation of a PodBounceDirective, with the value RestartMesh, has the pods of the whole mesh restarted, in
// place of those that spec.podsToBounce names: istiod, then gateways, then all others. It is an annotation so that
// Gloo Mesh's own CRD keeps it.
const (
	RestartAnnotation = "istiod-agent.io/restart"
	RestartMesh       = "mesh"
)

// RestartedForRootAnnotation of a workload's pod template holds the roots (fingerprints, sorted, with commas between)
// for which its pods were last restarted. Writing it is the restart; finding it is the proof that one was asked for.
const RestartedForRootAnnotation = "istiod-agent.io/restarted-for-root"
