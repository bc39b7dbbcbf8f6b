// SPDX-License-Identifier: Apache-2.0

package istio

// Files of an intermediate CA in CACertsDir, and keys of Secret cacerts (security/pkg/pki/ca/ca.go).
const (
	CAKeyFile     = "ca-key.pem"
	CACertFile    = "ca-cert.pem"
	CertChainFile = "cert-chain.pem"
	RootCertFile  = "root-cert.pem"
)

const (
	// CACertsDir is the default directory of istiod's intermediate CA (pilot/pkg/bootstrap/istio_ca.go, Istio 1.9 to 1.31).
	CACertsDir = "/etc/cacerts"
	// CACertsSecret is the Secret that Istio's charts mount there.
	CACertsSecret = "cacerts"
	// RootConfigMap publishes the mesh's roots in each namespace, under key RootCertFile (pkg/config/constants, CACertNamespaceConfigMap).
	RootConfigMap = "istio-ca-root-cert"
)

// Variables of istiod's container.
const (
	// RootCADirVariable overrides CACertsDir (pilot/pkg/bootstrap/istio_ca.go).
	RootCADirVariable = "ROOT_CA_DIR"
	// MultiRootVariable set to true lets istiod accept other roots of trust while it runs (pilot/pkg/features/pilot.go, Istio 1.9
	// to 1.31).
	MultiRootVariable = "ISTIO_MULTIROOT_MESH"
	// WorkloadTTLVariable is the lifetime of the certificates that istiod signs, 24 hours by default (pilot/pkg/bootstrap/istio_ca.go,
	// Istio 1.9 to 1.31).
	WorkloadTTLVariable = "DEFAULT_WORKLOAD_CERT_TTL"
)
