// SPDX-License-Identifier: Apache-2.0

package meshes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/internal/helm"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// meshConfigKey is the key of the MeshConfig in istiod's ConfigMap.
const meshConfigKey = "mesh"

// CacheByObject limits the cached ConfigMaps to the MeshConfig of istiods without a revision, because RBAC grants
// ConfigMaps by name. The ConfigMaps of revisions are read live.
func CacheByObject() map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{
		&corev1.ConfigMap{}: {
			Field: fields.OneTermEqualSelector("metadata.name", istio.MeshConfigMap(istio.DefaultRevision)),
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

// readIstiod reads an istiod from its Deployment and its ConfigMap.
func readIstiod(ctx context.Context, cached, live client.Reader, deployment *unstructured.Unstructured) (deployedIstiod, error) {
	istiod := deployedIstiod{
		Name: deployment.GetName(), Namespace: deployment.GetNamespace(), TrustDomain: istio.DefaultTrustDomain,
		ServiceAccount: istio.ServiceAccount(deployment),
	}
	found, _, _ := unstructured.NestedInt64(deployment.Object, "status", "replicas")
	istiod.Replicas = int(max(istio.Replicas(deployment), found))
	key := types.NamespacedName{Namespace: istiod.Namespace, Name: istio.MeshConfigMap(istio.Revision(deployment))}
	reader := cached
	if key.Name != istio.MeshConfigMap(istio.DefaultRevision) {
		reader, istiod.Unwatched = live, true
	}
	var stored corev1.ConfigMap
	err := reader.Get(ctx, key, &stored)
	if apierrors.IsForbidden(err) {
		istiod.Problem = fmt.Sprintf("the webhook cannot read the ConfigMap %s with istiod's trust domain: add the namespace to istiodSidecar.namespaces, as in %s",
			key, helm.Upgrade("--set 'istiodSidecar.namespaces={"+key.Namespace+"}'"))
		return istiod, nil
	}
	if apierrors.IsNotFound(err) {
		istiod.Problem = fmt.Sprintf("waiting for the ConfigMap %s with istiod's trust domain", key)
		return istiod, nil
	}
	if err != nil {
		return istiod, fmt.Errorf("reading istiod's ConfigMap %s: %w", key, err)
	}
	var mesh struct {
		TrustDomain string `json:"trustDomain"`
	}
	if err := yaml.Unmarshal([]byte(stored.Data[meshConfigKey]), &mesh); err != nil {
		istiod.Problem = fmt.Sprintf("istiod's ConfigMap %s is invalid: expected YAML with a string trustDomain under %s", key, meshConfigKey)
		return istiod, nil //nolint:nilerr // a retry would not help
	}
	if mesh.TrustDomain != "" {
		istiod.TrustDomain = mesh.TrustDomain
	}
	return istiod, nil
}
