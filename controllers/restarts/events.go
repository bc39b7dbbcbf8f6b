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
const (
	// reasonRestartsBegun: the root changed, and Pods restart.
	reasonRestartsBegun reason = "RestartsBegun"
	// reasonWorkloadRestarted: the rollout of a workload was started.
	reasonWorkloadRestarted reason = "WorkloadRestarted"
	// reasonPodEvicted: a Pod was evicted.
	reasonPodEvicted reason = "PodEvicted"
	// reasonRestartsFinished: every Pod that can be restarted was restarted.
	reasonRestartsFinished reason = "RestartsFinished"
	// reasonPodsLeft: some Pods cannot be restarted without loss.
	reasonPodsLeft reason = "PodsLeft"
	// reasonRestartsForbidden: the controller lacks the rights.
	reasonRestartsForbidden reason = "RestartsForbidden"
	// reasonStatusDropped: the CRD of another program drops the status, so that nothing can be restarted.
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
