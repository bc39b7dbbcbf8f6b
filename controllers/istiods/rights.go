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

// Reasons of Events about an istiod's service account.
//
//reasons:page istiods
const (
	// reasonAgentLacksRights: istiod's service account may not read IssuedCertificates or write their status, so the
	// agent waits in `Init`. The message contains the missing rights and the chart's value for them, and so does
	// `kubectl istiod-agent check`. The webhook's answers name missing rights only for the service account of a stored
	// istiod: otherwise, any client could query them.
	//
	// Remedy: add the service account to `istiodSidecar.serviceAccounts` or, for revisions, its namespace to
	// `istiodSidecar.namespaces`, with `istiodSidecar.createRoleBinding=true`, and [upgrade the release](upgrade.md).
	// If the account is already in the list, its namespace is newer than the release: the upgrade alone grants the
	// rights.
	reasonAgentLacksRights patches.Reason = "AgentLacksRights"
)

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
