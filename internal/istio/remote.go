// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Remote secrets, by which an istiod reads the services and endpoints of other clusters.
const (
	// RemoteSecretLabel, with the value true, is on every remote secret in istiod's namespace. Each data key is the name of a
	// cluster, its value a kubeconfig (pkg/kube/multicluster/secretcontroller.go, MultiClusterSecretLabel).
	RemoteSecretLabel = "istio/multiCluster" //nolint:gosec // the name of a label
	// RemoteClusterAnnotation is the name of the cluster (istioctl/pkg/multicluster, clusterNameAnnotationKey).
	RemoteClusterAnnotation = "networking.istio.io/cluster"
	// RemoteSecretPrefix and the name of the cluster are the name of a remote secret (istioctl/pkg/multicluster/remote_secret.go).
	RemoteSecretPrefix = "istio-remote-secret-" //nolint:gosec // a part of a name
	// ReaderServiceAccount is the account that istioctl makes remote secrets with. Its ClusterRole reads every Secret
	// (manifests/charts/istio-control/istio-discovery/templates/reader-clusterrole.yaml).
	ReaderServiceAccount = "istio-reader-service-account"

	// NetworkLabel on istiod's namespace is the network of the cluster's Pods (pilot/pkg/serviceregistry/kube/controller/network.go).
	NetworkLabel = "topology.istio.io/network"
	// EastWestPort is where a gateway receives traffic from other networks (samples/multicluster/expose-services.yaml).
	EastWestPort = 15443
	// GatewayStatusPort is where a gateway reports its health, whether or not it has a configuration
	// (samples/multicluster/gen-eastwest-gateway.sh).
	GatewayStatusPort = 15021

	// MonitoringPort is where istiod serves its metrics (pilot/cmd/pilot-discovery/app/cmd.go, monitoringAddr).
	MonitoringPort = 15014

	// clusterIDVariable is the name of istiod's own cluster (pilot/pkg/features, CLUSTER_ID).
	clusterIDVariable = "CLUSTER_ID"
	// RemoteCredentialsVariable set to false should let istiod do without the Secrets of remote clusters. In Istio 1.31, the first
	// that has it, istiod crashes when it adds a remote cluster: the component is nil, and its HasSynced is called
	// (pilot/pkg/credentials/kube/multicluster.go, pkg/kube/multicluster/cluster.go).
	RemoteCredentialsVariable = "PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER" //nolint:gosec // the name of a variable
)

// ClusterID returns the name of an istiod's own cluster; empty where the Deployment does not contain it as text.
func ClusterID(deployment *unstructured.Unstructured) string {
	value, _ := variable(deployment, clusterIDVariable)
	return value
}

// CrashesOnRemoteSecrets reports whether an istiod has RemoteCredentialsVariable=false.
func CrashesOnRemoteSecrets(deployment *unstructured.Unstructured) bool {
	value, _ := variable(deployment, RemoteCredentialsVariable)
	enabled, err := strconv.ParseBool(value)
	return err == nil && !enabled
}
