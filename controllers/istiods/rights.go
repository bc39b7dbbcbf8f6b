// SPDX-License-Identifier: Apache-2.0

package istiods

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// reasonAgentLacksRights is the reason of an Event about an istiod whose service account lacks rights of the agent.
const reasonAgentLacksRights patches.Reason = "AgentLacksRights"

// RunsAs reports whether a stored istiod of an opted-in namespace runs as a service account. It reads the cache.
func (r *Controller) RunsAs(ctx context.Context, namespace, serviceAccount string) bool {
	if optedIn, err := controllers.OptedIn(ctx, r.client, namespace); err != nil || !optedIn {
		return false
	}
	istiods, err := controllers.List(ctx, r.client, controllers.DeploymentKind, client.InNamespace(namespace))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(istiods, func(istiod unstructured.Unstructured) bool { return istio.ServiceAccount(&istiod) == serviceAccount })
}

// reportLacking records, once, the rights that the agent of an injected istiod lacks.
func (r *Controller) reportLacking(ctx context.Context, istiod *unstructured.Unstructured, found inspection) {
	if r.Lacking == nil || found.state != patches.StateInjected {
		return
	}
	key := client.ObjectKeyFromObject(istiod)
	warning := r.Lacking(ctx, istiod.GetNamespace(), istio.ServiceAccount(istiod))
	if !changed(r.lacking, key, warning) || warning == "" {
		return
	}
	controllers.Record(ctx, r.events, controllers.Event{
		Object: istiod, Type: corev1.EventTypeWarning, Reason: string(reasonAgentLacksRights), Action: "Inject", Message: warning,
	})
}
