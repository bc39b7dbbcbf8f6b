// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// settleTime is how long a ConfigMap must have held the roots: creation times have a resolution of one second, and the
// kubelet needs time to update its copy.
const settleTime = 2 * time.Second

// gateOf evaluates the ConfigMap from which the Pods of a namespace get their roots; nil when absent.
func gateOf(name string, configMap *corev1.ConfigMap, key string, desired []string, now time.Time) gate {
	if configMap == nil {
		return gate{waiting: fmt.Sprintf("ConfigMap %s to exist", name)}
	}
	published, err := pemcerts.Parse([]byte(configMap.Data[key]))
	if err != nil {
		return gate{waiting: fmt.Sprintf("ConfigMap %s to hold certificates in %s: %v", name, key, err)}
	}
	if !containsAll(pemcerts.Fingerprints(published), desired) {
		return gate{waiting: fmt.Sprintf("ConfigMap %s to hold root %s", name, shorten(desired...))}
	}
	since := lastChanged(configMap)
	if now.Before(since.Add(settleTime)) {
		return gate{waiting: fmt.Sprintf("the kubelets to update ConfigMap %s", name)}
	}
	return gate{open: true, since: since}
}

// gateSince is the gate of Pods that need no ConfigMap: those created before the rollout began are old.
func gateSince(began *metav1.Time, now time.Time) gate {
	if began == nil || now.Before(began.Add(settleTime)) {
		return gate{waiting: "a creation time that distinguishes new Pods from old ones"}
	}
	return gate{open: true, since: began.Time}
}

// lastChanged is the latest change according to managedFields.
func lastChanged(configMap *corev1.ConfigMap) time.Time {
	at := configMap.CreationTimestamp.Time
	for _, entry := range configMap.ManagedFields {
		if entry.Time != nil && entry.Time.After(at) {
			at = entry.Time.Time
		}
	}
	return at
}

// gate reports whether new Pods of a namespace would start with the desired roots.
type gate struct {
	open bool
	// since is when the gate opened: Pods created then or earlier are old.
	since time.Time
	// waiting is why it is closed.
	waiting string
}

// gate is the gate of the Pods of a set in a namespace, evaluated once per reconcile.
func (r *rollout) gate(ctx context.Context, s podSet, namespace string) (gate, error) {
	at, dataKey := types.NamespacedName{Namespace: namespace, Name: istio.RootConfigMap}, istio.RootCertFile
	if s.kind == selectedPods {
		sync := s.selector.RootCertSync
		if sync == nil || sync.ConfigMapRef == nil {
			return gateSince(r.status.StartedAt, r.now()), nil
		}
		at.Name, dataKey = sync.ConfigMapRef.Name, sync.ConfigMapKey
		if sync.ConfigMapRef.Namespace != "" {
			at.Namespace = sync.ConfigMapRef.Namespace
		}
	}
	id := at.String() + "/" + dataKey
	if evaluated, ok := r.gates[id]; ok {
		return evaluated, nil
	}
	configMap, err := r.configMap(ctx, at)
	if apierrors.IsForbidden(err) {
		r.gates[id] = gate{waiting: fmt.Sprintf("ConfigMap %s, which the webhook cannot read: expected the name %s", at, istio.RootConfigMap)}
		return r.gates[id], nil
	}
	if err != nil {
		return gate{}, err
	}
	r.gates[id] = gateOf(at.String(), configMap, dataKey, r.roots.desired, r.now())
	return r.gates[id], nil
}

// configMap reads a ConfigMap from the API server itself; nil when absent.
func (c *reconciler) configMap(ctx context.Context, at types.NamespacedName) (*corev1.ConfigMap, error) {
	configMap := &corev1.ConfigMap{}
	err := c.live.Get(ctx, at, configMap)
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // absent
	}
	if err != nil {
		return nil, fmt.Errorf("reading ConfigMap %s: %w", at, err)
	}
	return configMap, nil
}
