// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/controllers"
)

const (
	// defaultTrustDomain is Istio's (mesh/v1alpha1, MeshConfig.trust_domain).
	defaultTrustDomain = "cluster.local"
	// meshConfigKey of istiod's ConfigMap holds the MeshConfig.
	meshConfigKey = "mesh"
)

// CacheByObject limits what the manager's cache holds of ConfigMaps to the configurations of istiods, which Istio's
// charts label by revision, and of those to what is read.
func CacheByObject() map[client.Object]cache.ByObject {
	revision, err := labels.NewRequirement("istio.io/rev", selection.Exists, nil)
	if err != nil {
		panic(err) // it is a constant
	}
	return map[client.Object]cache.ByObject{
		&corev1.ConfigMap{}: {
			Label: labels.NewSelector().Add(*revision),
			Transform: func(object any) (any, error) {
				if configuration, ok := object.(*corev1.ConfigMap); ok {
					configuration.ManagedFields, configuration.Annotations, configuration.BinaryData = nil, nil, nil
					configuration.Data = map[string]string{meshConfigKey: configuration.Data[meshConfigKey]}
				}
				return object, nil
			},
		},
	}
}

// readIstiod reads what counts of an istiod's Deployment, and of its configuration.
func readIstiod(ctx context.Context, cached, live client.Reader, deployment *unstructured.Unstructured) (Istiod, error) {
	istiod := Istiod{Name: deployment.GetName(), Namespace: deployment.GetNamespace(), TrustDomain: defaultTrustDomain}
	istiod.ServiceAccount, _, _ = unstructured.NestedString(deployment.Object, "spec", "template", "spec", "serviceAccountName")
	if istiod.ServiceAccount == "" {
		istiod.ServiceAccount = "default"
	}
	wanted, given, _ := unstructured.NestedInt64(deployment.Object, "spec", "replicas")
	if !given {
		wanted = 1
	}
	found, _, _ := unstructured.NestedInt64(deployment.Object, "status", "replicas")
	istiod.Replicas = int(max(wanted, found))
	key := types.NamespacedName{Namespace: istiod.Namespace, Name: configuration(deployment)}
	var stored corev1.ConfigMap
	err := cached.Get(ctx, key, &stored)
	if apierrors.IsNotFound(err) { // or it is not labelled
		err = live.Get(ctx, key, &stored)
	}
	if apierrors.IsNotFound(err) {
		istiod.Problem = fmt.Sprintf("waiting for istiod's ConfigMap %s, which says what its trust domain is", key)
		return istiod, nil
	}
	if err != nil {
		return istiod, fmt.Errorf("reading istiod's ConfigMap %s: %w", key, err)
	}
	var mesh struct {
		TrustDomain string `json:"trustDomain"`
	}
	if err := yaml.Unmarshal([]byte(stored.Data[meshConfigKey]), &mesh); err != nil {
		istiod.Problem = fmt.Sprintf("istiod's ConfigMap %s cannot be read: its %s is not YAML with a trustDomain that is a string", key, meshConfigKey)
		return istiod, nil //nolint:nilerr // trying again would not help; the Problem says it
	}
	if mesh.TrustDomain != "" {
		istiod.TrustDomain = mesh.TrustDomain
	}
	return istiod, nil
}

// configuration is the name of the ConfigMap that istiod has its MeshConfig from (Istio pilot/pkg/bootstrap/mesh.go,
// getMeshConfigMapName).
func configuration(deployment *unstructured.Unstructured) string {
	if revision := controllers.Revision(deployment); revision != "" && revision != "default" {
		return "istio-" + revision
	}
	return "istio"
}
