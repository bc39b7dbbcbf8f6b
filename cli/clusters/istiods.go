// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/patches"
)

// InjectedNamespaces returns the names of the namespaces whose istiods are injected. Anyone who may create a Pod can label it as
// an istiod, but not a namespace.
func InjectedNamespaces(ctx context.Context, reader client.Reader) (names []string, err error) {
	var namespaces corev1.NamespaceList
	if err := reader.List(ctx, &namespaces, client.MatchingLabels{patches.InjectionLabel: patches.InjectionEnabled}); err != nil {
		return nil, err
	}
	for i := range namespaces.Items {
		names = append(names, namespaces.Items[i].Name)
	}
	return names, nil
}
