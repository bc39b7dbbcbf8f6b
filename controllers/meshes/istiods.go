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

const (
	// meshConfigKey of istiod's ConfigMap holds the MeshConfig.
	meshConfigKey = "mesh"
)

// CacheByObject limits what the manager's cache holds of ConfigMaps to the configurations of istiods without a revision,
// of one name, since rights on ConfigMaps are given by name; and of those to what is read. A revision's is read live.
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

// readIstiod reads what counts of an istiod's Deployment, and of its configuration.
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
		istiod.Problem = fmt.Sprintf("the webhook may not read istiod's ConfigMap %s, which holds its trust domain: add the namespace to istiodSidecar.namespaces, as in %s",
			key, helm.Upgrade("--set 'istiodSidecar.namespaces={"+key.Namespace+"}'"))
		return istiod, nil
	}
	if apierrors.IsNotFound(err) {
		istiod.Problem = fmt.Sprintf("waiting for istiod's ConfigMap %s, which holds its trust domain", key)
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
