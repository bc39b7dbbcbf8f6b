// SPDX-License-Identifier: Apache-2.0

// Package traffic is the contract between `kubectl istiod-agent verify --traffic` and the Pods that it starts: their xDS
// bootstrap and their result. It links no gRPC.
package traffic

import "encoding/json"

// CredentialsType names, in the bootstrap, the channel credentials and the certificate provider of the program
// istiod-agent-traffic: it keeps its certificate in memory, where gRPC's own kinds read files.
const CredentialsType = "istiod-agent"

// BootstrapVariable is the environment variable that grpc-go reads its bootstrap from (google.golang.org/grpc
// internal/envconfig/xds.go).
const BootstrapVariable = "GRPC_XDS_BOOTSTRAP_CONFIG"

// Header of each response names the server, as the flag --name of istiod-agent-traffic gives it.
const Header = "istiod-agent-traffic-server"

// Node is a proxyless gRPC workload as istiod knows it. A field may be a Kubernetes reference to a variable, such as $(POD_IP).
type Node struct {
	Name, Namespace, IP, ServiceAccount string
	// Cluster is CLUSTER_ID of the workload's istiod.
	Cluster string
	// Network is the cluster's in topology.istio.io/network; empty for a flat network.
	Network string
	// Domain is the cluster's DNS domain.
	Domain string
	Labels map[string]string
}

// Bootstrap returns the xDS bootstrap, in JSON, of a workload whose istiod serves at an address (HOST:PORT). Identity and
// metadata are those that Istio's own agent sends (pkg/istio-agent/grpcxds/grpc_bootstrap.go); the generator grpc makes istiod
// answer with the resources that gRPC understands (pilot/pkg/networking/grpcgen).
func Bootstrap(istiod string, node Node) string {
	metadata := map[string]any{
		"GENERATOR": "grpc", "CLUSTER_ID": node.Cluster, "NAMESPACE": node.Namespace, "NAME": node.Name,
		"SERVICE_ACCOUNT": node.ServiceAccount, "LABELS": node.Labels,
	}
	if node.Network != "" {
		metadata["NETWORK"] = node.Network
	}
	text, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{
			"server_uri": istiod, "channel_creds": []any{map[string]any{"type": CredentialsType}}, "server_features": []string{"xds_v3"},
		}},
		"node": map[string]any{
			"id":       "sidecar~" + node.IP + "~" + node.Name + "." + node.Namespace + "~" + node.Namespace + ".svc." + node.Domain,
			"metadata": metadata,
		},
		"certificate_providers":                  map[string]any{"default": map[string]any{"plugin_name": CredentialsType}},
		"server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s",
	})
	if err != nil {
		panic(err) // maps and strings
	}
	return string(text)
}
