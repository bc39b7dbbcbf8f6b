// SPDX-License-Identifier: Apache-2.0

// Package traffic proves by calls that workloads of every two clusters reach each other. It starts a server and a client in each
// cluster, in a namespace of its own, and removes the namespace in any case. The Pods are workloads without a proxy, which
// istiod configures by xDS.
package traffic

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// Istiod is what a workload must know about its istiod.
type Istiod struct {
	// Service is HOST of its Service, Port of which is istio.SecurePort.
	Service string
	// ClusterID is the name of the cluster in Istio.
	ClusterID string
	// Domain is the DNS domain of the cluster's Services.
	Domain string
	// Network is the one of the cluster's Pods; empty on a flat network.
	Network string
}

// ReadIstiod reads a Pod of istiod and the labels of its namespace. The cluster's name is the variable CLUSTER_ID (Istio
// pilot/pkg/features), and the domain the flag --domain of the container discovery, as Istio's chart sets them
// (istio-discovery/templates/deployment.yaml).
func ReadIstiod(pod *corev1.Pod, namespaceLabels map[string]string) Istiod {
	istiod := Istiod{
		Service:   istio.ServiceName(istio.RevisionOf(pod.Labels)) + "." + pod.Namespace + ".svc",
		ClusterID: "Kubernetes", Domain: "cluster.local", Network: namespaceLabels[istio.NetworkLabel],
	}
	at := max(0, slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == "discovery" }))
	if len(pod.Spec.Containers) == 0 {
		return istiod
	}
	container := pod.Spec.Containers[at]
	for _, variable := range container.Env {
		if variable.Name == "CLUSTER_ID" {
			istiod.ClusterID = cmp.Or(variable.Value, istiod.ClusterID)
		}
	}
	if flag := slices.Index(container.Args, "--domain"); flag >= 0 && flag+1 < len(container.Args) {
		istiod.Domain = cmp.Or(container.Args[flag+1], istiod.Domain)
	}
	return istiod
}
