// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/agentrights"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// istiodState is the state of an istiod's Deployment.
type istiodState struct {
	Name, Namespace, ServiceAccount string
	// State is of the Deployment or, where Pods are injected, the worst of its Pods.
	State   patches.State
	Reason  patches.Reason
	Message string
	// Lacking are the permissions of the agent that the service account does not have.
	Lacking fact[[]string]
}

func readIstiods(ctx context.Context, c client.Client, target v1alpha1.Target) ([]istiodState, error) {
	config := v1alpha1.Default()
	config.Target = target
	injector, err := patches.New(config)
	if err != nil {
		return nil, err
	}
	selector := client.MatchingLabels(istio.IstiodLabels)
	deployments, err := list(ctx, c, appsv1.SchemeGroupVersion.WithKind("Deployment"), selector)
	if err != nil {
		return nil, err
	}
	var pods []unstructured.Unstructured
	if target == v1alpha1.TargetPods && len(deployments) > 0 {
		if pods, err = list(ctx, c, corev1.SchemeGroupVersion.WithKind("Pod"), selector); err != nil {
			return nil, err
		}
	}
	var istiods []istiodState
	rights := map[string]fact[[]string]{}
	for i := range deployments {
		deployment := &deployments[i]
		istiod := istiodState{Name: deployment.GetName(), Namespace: deployment.GetNamespace()}
		istiod.ServiceAccount = istio.ServiceAccount(deployment)
		istiod.inspect(injector, deployment, pods)
		key := istiod.Namespace + "/" + istiod.ServiceAccount
		if _, exists := rights[key]; !exists {
			rights[key] = factOf(agentrights.Lacking(ctx, c, istiod.Namespace, istiod.ServiceAccount))
		}
		istiod.Lacking = rights[key]
		istiods = append(istiods, istiod)
	}
	return istiods, nil
}

func (i *istiodState) inspect(injector *patches.Injector, deployment *unstructured.Unstructured, pods []unstructured.Unstructured) {
	inspect := func(kind patches.Kind, object *unstructured.Unstructured) {
		raw, err := object.MarshalJSON()
		if err != nil {
			return
		}
		state, result := injector.Inspect(kind, raw)
		if worst := []patches.State{"", patches.StateSkipped, patches.StateInjected, patches.StateOutdated, patches.StateMissing}; slices.Index(worst, state) > slices.Index(worst, i.State) {
			i.State, i.Reason, i.Message = state, result.Reason, result.Message
		}
	}
	if injector.Target() == patches.Deployment {
		inspect(patches.Deployment, deployment)
		return
	}
	matchLabels, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "selector", "matchLabels")
	selector := labels.SelectorFromSet(matchLabels)
	for p := range pods {
		if pods[p].GetNamespace() == i.Namespace && pods[p].GetDeletionTimestamp() == nil && selector.Matches(labels.Set(pods[p].GetLabels())) {
			inspect(patches.Pod, &pods[p])
		}
	}
}

// isFor reports whether a certificate has the identity of an istiod.
func isFor(certificate *unstructured.Unstructured, istiod *istiodState) bool {
	hosts, _, _ := unstructured.NestedStringSlice(certificate.Object, "spec", "hosts")
	return istio.Covers(hosts, istiod.Namespace, istiod.ServiceAccount)
}
