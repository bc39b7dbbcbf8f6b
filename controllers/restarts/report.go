// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/helm"
)

// Reason is a key of log lines and Events.
type Reason string

// The reasons.
const (
	// RestartsBegun: the root has changed, and Pods are restarted.
	RestartsBegun Reason = "RestartsBegun"
	// WorkloadRestarted: a rollout of a workload was started.
	WorkloadRestarted Reason = "WorkloadRestarted"
	// PodEvicted: a Pod was evicted.
	PodEvicted Reason = "PodEvicted"
	// RestartsFinished: every Pod has been restarted that can be.
	RestartsFinished Reason = "RestartsFinished"
	// PodsLeft: some Pods cannot be restarted without loss.
	PodsLeft Reason = "PodsLeft"
	// RestartsForbidden: the controller was not given the rights.
	RestartsForbidden Reason = "RestartsForbidden"
	// StatusDropped: another's CRD drops what is written down, so that nothing can be restarted.
	StatusDropped Reason = "StatusDropped"
)

var restarted = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "istiod_agent_restarts_total",
	Help: "Restarts after a change of the root of trust, by kind of the Pods' owner and method (Rollout of the owner, or Eviction of one Pod).",
}, []string{"kind", "method"})

func init() { metrics.Registry.MustRegister(restarted) }

// ours are the fields of the status that are written here.
var ours = []string{"podsBounced", "state", "roots", "set", "message", "startedAt", "finishedAt", "restarting", "remaining", "left"}

// attempts are how often a status is written that somebody else writes as well.
const attempts = 10

// errDropped is for a status that is not stored as it was written.
var errDropped = errors.New("the API server drops the fields of the status that say what is restarted, and nothing is: the CRD of PodBounceDirective is not this release's; " +
	"install it, as by " + helm.Upgrade("--set crds.install=true"))

// report writes the status where it is not so already, in place of just what was read: whoever is late must read again
// before they restart anything. What others write beside it stays, and holds up nothing.
func (c *Controller) report(ctx context.Context, object *unstructured.Unstructured, before, after certificatesv1.PodBounceDirectiveStatus) error {
	if same(before, after) {
		return nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&after)
	if err != nil {
		return err
	}
	key := client.ObjectKeyFromObject(object)
	for attempt := 1; ; attempt++ {
		changed := object.DeepCopy()
		stored, _, _ := unstructured.NestedMap(object.Object, "status")
		if stored == nil {
			stored = map[string]any{}
		}
		for _, field := range ours {
			delete(stored, field)
			if value, ok := content[field]; ok {
				stored[field] = value
			}
		}
		changed.Object["status"] = stored
		patch := client.MergeFromWithOptions(object, client.MergeFromWithOptimisticLock{})
		err := c.client.Status().Patch(ctx, changed, patch, client.FieldOwner(manager))
		switch {
		case err == nil:
			if state, _, _ := unstructured.NestedString(changed.Object, "status", "state"); state != string(after.State) {
				return errDropped
			}
			c.tell(ctx, object, before, after)
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case !apierrors.IsConflict(err):
			return fmt.Errorf("writing the status of PodBounceDirective %s: %w", key, err)
		case attempt == attempts:
			return err
		}
		newest := untyped(certificatesv1.PodBounceDirectiveKind)
		if err := c.live.Get(ctx, key, newest); err != nil {
			return client.IgnoreNotFound(err)
		}
		var directive certificatesv1.PodBounceDirective
		if runtime.DefaultUnstructuredConverter.FromUnstructured(newest.Object, &directive) != nil || newest.GetGeneration() != object.GetGeneration() || !same(directive.Status, before) {
			return err // what was decided on is not so any more
		}
		object = newest
	}
}

// tell says what has changed.
func (c *Controller) tell(ctx context.Context, object *unstructured.Unstructured, before, after certificatesv1.PodBounceDirectiveStatus) {
	say := func(kind string, reason Reason, message string) {
		logf.FromContext(ctx).Info(message, "reason", reason)
		c.say(object, nil, kind, reason, message)
	}
	begun := after.StartedAt != nil && (before.StartedAt == nil || !before.StartedAt.Equal(after.StartedAt))
	if begun {
		was := ""
		if len(before.Roots) > 0 {
			was = " in place of " + short(before.Roots...)
		}
		say(corev1.EventTypeNormal, RestartsBegun, "the root of trust is "+short(after.Roots...)+was+": istiod, gateways and workloads are restarted, one after the other")
	}
	if strings.HasPrefix(after.Message, mayNot) && after.Message != before.Message {
		say(corev1.EventTypeWarning, RestartsForbidden, after.Message)
	}
	if after.State == certificatesv1.Restarted && before.State != certificatesv1.Restarted {
		say(corev1.EventTypeNormal, RestartsFinished, after.Message)
		if len(after.Left) > 0 {
			say(corev1.EventTypeWarning, PodsLeft, strings.Join(after.Left, "; "))
		}
	}
}

func (c *Controller) say(about, related runtime.Object, kind string, reason Reason, message string) {
	const most = 1024 // of an Event's note, pkg/apis/core/validation/events.go
	if len(message) > most {
		message = strings.ToValidUTF8(message[:most-3], "") + "..."
	}
	c.events.Eventf(about, related, kind, string(reason), "Restart", "%s", message)
}

// same compares what would be stored.
func same(a, b certificatesv1.PodBounceDirectiveStatus) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(x) == string(y)
}
