// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// settling is how long a ConfigMap must have held the roots: creation times have whole seconds, so that a Pod that was
// replaced within the same second could not be told from an old one; and the node's kubelet has to hear of it.
const settling = 2 * time.Second

// gateOf judges the ConfigMap from which a namespace's Pods get their roots; nil is one that is not there.
func gateOf(name string, configMap *corev1.ConfigMap, key string, wanted []string, now time.Time) gate {
	if configMap == nil {
		return gate{waiting: fmt.Sprintf("ConfigMap %s, which is not there", name)}
	}
	published, err := pemcerts.Parse([]byte(configMap.Data[key]))
	if err != nil {
		return gate{waiting: fmt.Sprintf("ConfigMap %s to hold certificates in %s: %v", name, key, err)}
	}
	if !holds(pemcerts.Fingerprints(published), wanted) {
		return gate{waiting: fmt.Sprintf("ConfigMap %s to hold root %s", name, short(wanted...))}
	}
	since := changedAt(configMap)
	if now.Before(since.Add(settling)) {
		return gate{waiting: fmt.Sprintf("ConfigMap %s, which has just changed, to reach the nodes", name)}
	}
	return gate{open: true, since: since}
}

// gateSince is one that waits for no ConfigMap: Pods are old that were there when the round began.
func gateSince(began *metav1.Time, now time.Time) gate {
	if began == nil || now.Before(began.Add(settling)) {
		return gate{waiting: "new Pods to be told from old ones"}
	}
	return gate{open: true, since: began.Time}
}

// changedAt is when an object was changed last, as the API server keeps it with the owners of its fields.
func changedAt(configMap *corev1.ConfigMap) time.Time {
	at := configMap.CreationTimestamp.Time
	for _, each := range configMap.ManagedFields {
		if each.Time != nil && each.Time.After(at) {
			at = each.Time.Time
		}
	}
	return at
}
