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

// reason is a key of log lines and Events.
type reason string

// The reasons.
const (
	// RestartsBegun: the root has changed, and Pods are restarted.
	reasonRestartsBegun reason = "RestartsBegun"
	// WorkloadRestarted: a rollout of a workload was started.
	reasonWorkloadRestarted reason = "WorkloadRestarted"
	// PodEvicted: a Pod was evicted.
	reasonPodEvicted reason = "PodEvicted"
	// RestartsFinished: every Pod has been restarted that can be.
	reasonRestartsFinished reason = "RestartsFinished"
	// PodsLeft: some Pods cannot be restarted without loss.
	reasonPodsLeft reason = "PodsLeft"
	// RestartsForbidden: the controller was not given the rights.
	reasonRestartsForbidden reason = "RestartsForbidden"
	// StatusDropped: another's CRD drops what is written down, so that nothing can be restarted.
	reasonStatusDropped reason = "StatusDropped"
)

var restarted = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "istiod_agent_restarts_total",
	Help: "Restarts after a change of the root of trust, by kind of the Pods' owner and method (Rollout of the owner, or Eviction of one Pod).",
}, []string{"kind", "method"})

func init() { metrics.Registry.MustRegister(restarted) }

// tell says what has changed.
func (c *reconciler) notify(ctx context.Context, object *unstructured.Unstructured, before, after certificatesv1.PodBounceDirectiveStatus) {
	notify := func(kind string, reason reason, message string) {
		c.event(ctx, object, nil, kind, reason, message)
	}
	begun := after.StartedAt != nil && (before.StartedAt == nil || !before.StartedAt.Equal(after.StartedAt))
	if begun {
		was := ""
		if len(before.Roots) > 0 {
			was = " in place of " + shorten(before.Roots...)
		}
		notify(corev1.EventTypeNormal, reasonRestartsBegun, "the root of trust is "+shorten(after.Roots...)+was+": istiod, gateways and workloads are restarted, one after the other")
	}
	if strings.HasPrefix(after.Message, missingRightsPrefix) && after.Message != before.Message {
		notify(corev1.EventTypeWarning, reasonRestartsForbidden, after.Message)
	}
	if after.State == certificatesv1.Restarted && before.State != certificatesv1.Restarted {
		notify(corev1.EventTypeNormal, reasonRestartsFinished, after.Message)
		if len(after.Left) > 0 {
			notify(corev1.EventTypeWarning, reasonPodsLeft, strings.Join(after.Left, "; "))
		}
	}
}

func (c *reconciler) event(ctx context.Context, about client.Object, related runtime.Object, kind string, reason reason, message string) {
	controllers.Record(ctx, c.events, controllers.Event{Object: about, Related: related, Type: kind, Reason: string(reason), Action: "Restart", Message: message})
}
