// SPDX-License-Identifier: Apache-2.0

package v1

// RenewAnnotation on an IssuedCertificate requests a new certificate whenever its value changes. A changed
// specification within the next ten minutes is not spread over the replicas either.
const RenewAnnotation = "istiod-agent.io/renew"

// Annotations of an IssuedCertificate for a root change in stages. They are annotations because Gloo Mesh's own CRD
// prunes unknown fields.
const (
	// TrustedRootsAnnotation holds the PEM certificates of all roots that istiod publishes as trusted, the old ones
	// first. The root of the CA certificate must be among them. Default: that root alone.
	TrustedRootsAnnotation = "istiod-agent.io/trusted-roots"
	// CAFromSecretAnnotation names a Secret in istiod's namespace with istiod's previous CA, under Istio's file names:
	// ca-cert.pem, ca-key.pem and, unless the CA is a root, cert-chain.pem. While it is set, istiod keeps that CA and
	// ignores spec.agentCa.
	CAFromSecretAnnotation = "istiod-agent.io/ca-from-secret" //nolint:gosec // the name of an annotation
)

// AcceptRootAnnotation of an IssuedCertificate lets starting istiods get a certificate under a root that the mesh does
// not publish yet, while other replicas keep the previous root. Its value is the SHA-256 of that root certificate (DER)
// in hexadecimal.
const AcceptRootAnnotation = "istiod-agent.io/accept-root"

// RestartAnnotation of a PodBounceDirective, with the value RestartMesh, restarts the Pods of the whole mesh instead of
// those in spec.podsToBounce: istiod, then gateways, then all others. It is an annotation because Gloo Mesh's own CRD
// prunes unknown fields.
const (
	RestartAnnotation = "istiod-agent.io/restart"
	RestartMesh       = "mesh"
)

// RestartedForRootAnnotation of a pod template holds the roots (sorted fingerprints, separated by commas) for which its
// Pods last restarted. Writing it triggers the restart.
const RestartedForRootAnnotation = "istiod-agent.io/restarted-for-root"
