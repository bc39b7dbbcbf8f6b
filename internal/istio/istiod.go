// SPDX-License-Identifier: Apache-2.0

// Package istio is the rules about an istiod, each with its source in Istio (1.31 unless stated otherwise). It imports no client.
package istio

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// IstiodLabels are on every istiod's Deployment and Pods
// (manifests/charts/istio-control/istio-discovery/templates/deployment.yaml).
var IstiodLabels = labels.Set{"app": "istiod"}

const (
	// RevisionLabel is the revision of an istiod on its Deployment and Pods; on other objects it may be a revision's tag
	// (pkg/config/label, api/label.IoIstioRev).
	RevisionLabel = "istio.io/rev"
	// revisionVariable is the revision in istiod's container (pilot/pkg/features, REVISION).
	revisionVariable = "REVISION"
	// DefaultRevision is the revision where the charts set none (istio-discovery/templates/deployment.yaml).
	DefaultRevision = "default"

	// SecurePort is where istiod serves certificates and configuration over TLS (pilot/pkg/bootstrap/options.go,
	// secureGRPCAddr).
	SecurePort = 15012

	// DefaultServiceAccount is a Pod's where its specification has none (plugin/pkg/admission/serviceaccount/admission.go,
	// Kubernetes 1.37).
	DefaultServiceAccount = "default"
)

// Revision returns the revision of an istiod's Deployment: the value of revisionVariable, or else of RevisionLabel.
// It is DefaultRevision where neither is set.
func Revision(deployment *unstructured.Unstructured) string {
	if value, found := Variable(deployment, revisionVariable); found {
		return cmp.Or(value, DefaultRevision)
	}
	return RevisionOf(deployment.GetLabels())
}

// Variable returns the value of an environment variable of the first container of a Deployment that has it. The value is empty
// where it comes from another object.
func Variable(deployment *unstructured.Unstructured, name string) (value string, found bool) {
	containers, _, _ := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	for _, container := range containers {
		fields, _ := container.(map[string]any)
		env, _ := fields["env"].([]any)
		for _, entry := range env {
			if variable, ok := entry.(map[string]any); ok && variable["name"] == name {
				value, _ := variable["value"].(string)
				return value, true
			}
		}
	}
	return "", false
}

// RevisionOf returns the revision in the labels of an istiod's Pod.
func RevisionOf(podLabels map[string]string) string {
	return cmp.Or(podLabels[RevisionLabel], DefaultRevision)
}

// ServiceName returns the name of an istiod's Service (istio-discovery/templates/service.yaml).
func ServiceName(revision string) string { return withRevision("istiod", revision) }

// MeshConfigMap returns the name of the ConfigMap that an istiod reads its MeshConfig from
// (pilot/pkg/bootstrap/mesh.go, getMeshConfigMapName).
func MeshConfigMap(revision string) string { return withRevision("istio", revision) }

func withRevision(name, revision string) string {
	if revision == "" || revision == DefaultRevision {
		return name
	}
	return name + "-" + revision
}

// ServiceAccount returns the name of the service account of a Deployment's Pods.
func ServiceAccount(deployment *unstructured.Unstructured) string {
	name, _, _ := unstructured.NestedString(deployment.Object, "spec", "template", "spec", "serviceAccountName")
	return ServiceAccountOr(name)
}

// ServiceAccountOr returns the service account of a Pod specification with this serviceAccountName.
func ServiceAccountOr(name string) string { return cmp.Or(name, DefaultServiceAccount) }

// Replicas returns the desired number of a Deployment's Pods, 1 by default (pkg/apis/apps/v1/defaults.go, Kubernetes 1.37).
func Replicas(deployment *unstructured.Unstructured) int64 {
	replicas, set, _ := unstructured.NestedInt64(deployment.Object, "spec", "replicas")
	if !set {
		return 1
	}
	return replicas
}

var dashes = strings.NewReplacer(".", "-", "_", "-", ":", "-", "/", "-", " ", "-")

// MeshName returns the name of an istiod's mesh in the public API: <deployment>-<namespace>-<cluster>
// (Gloo Mesh 1.2, pkg/mesh-discovery/translation/utils/object_meta.go).
func MeshName(deployment, namespace, cluster string) string {
	return NormalMeshName(deployment + "-" + namespace + "-" + cluster)
}

// NormalMeshName returns a name in lower case, with dashes for characters that no object's name may contain.
func NormalMeshName(name string) string { return strings.ToLower(dashes.Replace(name)) }
