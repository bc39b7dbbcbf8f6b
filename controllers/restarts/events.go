// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/controllers"
)

// reason is the key of an Event and its log line.
type reason string

// The reasons.
//
//reasons:page restarts
const (
	// reasonRestartsBegun: On the `PodBounceDirective`: the mesh must trust a new root, and istiod, gateways and
	// workloads restart for it, one after another. `kubectl get podbouncedirectives -A -o wide` shows the progress and
	// the cause of a wait.
	//
	// Remedy: none. If the change of the root was not intended, restore the CA's root at once.
	reasonRestartsBegun reason = "RestartsBegun"
	// reasonWorkloadRestarted: On a Deployment, StatefulSet or DaemonSet: the controller started its rollout, with the
	// annotation `istiod-agent.io/restarted-for-root` on its pod template. It waits for a workload that does not
	// become ready, and five of them stop the restarts.
	//
	// Remedy: none.
	reasonWorkloadRestarted reason = "WorkloadRestarted"
	// reasonPodEvicted: On a Pod: the controller evicted it, because its owner has no rollout.
	//
	// Remedy: none.
	reasonPodEvicted reason = "PodEvicted"
	// reasonRestartsFinished: On the `PodBounceDirective`: all Pods that can be restarted have restarted.
	//
	// Remedy: none.
	reasonRestartsFinished reason = "RestartsFinished"
	// reasonPodsLeft: On the `PodBounceDirective`, after the restarts: some Pods were not restarted, with the reason.
	// Its `status.left` lists all of them. They keep the old root.
	//
	// Remedy: delete and create Pods without an owner yourself.
	reasonPodsLeft reason = "PodsLeft"
	// reasonRestartsForbidden: On the `PodBounceDirective`: the root has changed, and the controller lacks the rights
	// to restart Pods.
	//
	// Remedy: grant them (`restarts.enabled`), or restart istiod, gateways and workloads yourself, in this order.
	// Restart each when `istio-ca-root-cert` in its namespace contains the new root.
	reasonRestartsForbidden reason = "RestartsForbidden"
	// reasonStatusDropped: On the `PodBounceDirective`: the API server drops the status fields in which the controller
	// records its restarts, so the controller restarts nothing. The CRD is Gloo Mesh's or an older one.
	//
	// Remedy: install this release's CRD (`crds.install`), or restart Pods yourself.
	reasonStatusDropped reason = "StatusDropped"
)

var restarted = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "istiod_agent_restarts_total",
	Help: "Restarts after a change of the root of trust, by kind of the Pods' owner and method (Rollout of the owner, or Eviction of one Pod).",
}, []string{"kind", "method"})

func init() { metrics.Registry.MustRegister(restarted) }

// notify records the changes of a status.
func (c *reconciler) notify(ctx context.Context, object *unstructured.Unstructured, before, after certificatesv1.PodBounceDirectiveStatus) {
	record := func(kind string, reason reason, message string) {
		c.event(ctx, object, nil, kind, reason, message)
	}
	begun := after.StartedAt != nil && (before.StartedAt == nil || !before.StartedAt.Equal(after.StartedAt))
	if begun {
		previous := ""
		if len(before.Roots) > 0 {
			previous = " in place of " + shorten(before.Roots...)
		}
		record(corev1.EventTypeNormal, reasonRestartsBegun, "the root of trust is "+shorten(after.Roots...)+previous+": istiod, gateways and workloads restart, one after the other")
	}
	if strings.HasPrefix(after.Message, missingRightsPrefix) && after.Message != before.Message {
		record(corev1.EventTypeWarning, reasonRestartsForbidden, after.Message)
	}
	if after.State == certificatesv1.Restarted && before.State != certificatesv1.Restarted {
		record(corev1.EventTypeNormal, reasonRestartsFinished, after.Message)
		if len(after.Left) > 0 {
			record(corev1.EventTypeWarning, reasonPodsLeft, strings.Join(after.Left, "; "))
		}
	}
}

func (c *reconciler) event(ctx context.Context, about client.Object, related runtime.Object, kind string, reason reason, message string) {
	controllers.Record(ctx, c.events, controllers.Event{Object: about, Related: related, Type: kind, Reason: string(reason), Action: "Restart", Message: message})
}
