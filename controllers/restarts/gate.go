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

// settleTime is how long a ConfigMap must have held the roots: creation times have whole seconds, so that a Pod that was
// replaced within the same second could not be told from an old one; and the node's kubelet has to hear of it.
const settleTime = 2 * time.Second

// gateOf judges the ConfigMap from which a namespace's Pods get their roots; nil is one that is not there.
func gateOf(name string, configMap *corev1.ConfigMap, key string, desired []string, now time.Time) gate {
	if configMap == nil {
		return gate{waiting: fmt.Sprintf("ConfigMap %s, which is not there", name)}
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
		return gate{waiting: fmt.Sprintf("ConfigMap %s, which has just changed, to reach the nodes", name)}
	}
	return gate{open: true, since: since}
}

// gateSince is one that waits for no ConfigMap: Pods are old that were there when the round began.
func gateSince(began *metav1.Time, now time.Time) gate {
	if began == nil || now.Before(began.Add(settleTime)) {
		return gate{waiting: "new Pods to be told from old ones"}
	}
	return gate{open: true, since: began.Time}
}

// lastChanged is when an object was changed last, as the API server keeps it with the owners of its fields.
func lastChanged(configMap *corev1.ConfigMap) time.Time {
	at := configMap.CreationTimestamp.Time
	for _, each := range configMap.ManagedFields {
		if each.Time != nil && each.Time.After(at) {
			at = each.Time.Time
		}
	}
	return at
}

// gate says whether new Pods of a namespace would start with the wanted roots.
type gate struct {
	open bool
	// since is when that became so: Pods that were created then or before are old.
	since time.Time
	// waiting says what keeps it closed.
	waiting string
}

// gate is that of a namespace's Pods in a set, looked at once in each round.
func (r *rollout) gate(ctx context.Context, s podSet, namespace string) (gate, error) {
	at, dataKey := types.NamespacedName{Namespace: namespace, Name: istio.RootConfigMap}, istio.RootCertFile
	if s.kind == selectedPods {
		sync := s.selector.RootCertSync
		if sync == nil || sync.ConfigMapRef == nil { // nobody waits
			return gateSince(r.status.StartedAt, r.now()), nil
		}
		at.Name, dataKey = sync.ConfigMapRef.Name, sync.ConfigMapKey
		if sync.ConfigMapRef.Namespace != "" {
			at.Namespace = sync.ConfigMapRef.Namespace
		}
	}
	id := at.String() + "/" + dataKey
	if known, ok := r.gates[id]; ok {
		return known, nil
	}
	configMap, err := r.configMap(ctx, at)
	if apierrors.IsForbidden(err) {
		r.gates[id] = gate{waiting: fmt.Sprintf("ConfigMap %s, which the webhook may not read: expected the name %s", at, istio.RootConfigMap)}
		return r.gates[id], nil
	}
	if err != nil {
		return gate{}, err
	}
	r.gates[id] = gateOf(at.String(), configMap, dataKey, r.roots.desired, r.now())
	return r.gates[id], nil
}

// configMap reads one from the API server itself, nil where it is not there.
func (c *reconciler) configMap(ctx context.Context, at types.NamespacedName) (*corev1.ConfigMap, error) {
	configMap := &corev1.ConfigMap{}
	err := c.live.Get(ctx, at, configMap)
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, fmt.Errorf("reading ConfigMap %s: %w", at, err)
	}
	return configMap, nil
}
