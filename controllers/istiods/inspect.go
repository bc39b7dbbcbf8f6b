// SPDX-License-Identifier: Apache-2.0

package istiods

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// CacheByObject limits the cache to istiods, their Pods where Pods are injected, and the opted-in namespaces, of the given
// ones if there are any.
func CacheByObject(target patches.Kind, namespaces []string) map[client.Object]cache.ByObject {
	optedIn := controllers.NamespaceLabels.AsSelector()
	if len(namespaces) > 0 {
		listed, err := labels.NewRequirement(corev1.LabelMetadataName, selection.In, namespaces)
		if err != nil {
			panic(err) // the configuration's validation requires names that labels can have
		}
		optedIn = optedIn.Add(*listed)
	}
	byObject := map[client.Object]cache.ByObject{
		deployment(): {Label: istio.IstiodLabels.AsSelector()},
		controllers.Metadata(corev1.SchemeGroupVersion.WithKind("Namespace")): {
			Label: optedIn,
			Field: fields.OneTermNotEqualSelector("metadata.name", metav1.NamespaceSystem),
		},
	}
	if target == patches.Pod {
		byObject[pod()] = controllers.IstiodPods()
	}
	return byObject
}

func deployment() *unstructured.Unstructured { return controllers.Untyped(controllers.DeploymentKind) }
func pod() *unstructured.Unstructured        { return controllers.Untyped(controllers.PodKind) }

// inspection is the observed state of one istiod.
type inspection struct {
	state  patches.State
	result patches.Result
	// restartedFor is the restartedForAnnotation of the pod template.
	restartedFor string
	// waiting reports that Pods are still to be created, or that a restart is in progress.
	waiting bool
}

// inspect returns the state of the Deployment or, where Pods are injected, the worst state of its Pods.
func (r *Controller) inspect(ctx context.Context, istiod *unstructured.Unstructured) (inspection, error) {
	if r.injector.Target() == patches.Deployment || controllers.TooLarge(istiod) != "" {
		return r.inspectObject(patches.Deployment, istiod)
	}
	found := inspection{state: patches.StateInjected}
	found.result.Report = patches.Report{Reason: patches.AlreadyInjected, Message: "every Pod runs the agent as configured"}
	found.restartedFor, _, _ = unstructured.NestedString(istiod.Object, "spec", "template", "metadata", "annotations", restartedForAnnotation)

	pods, err := r.podsOf(ctx, istiod)
	if err != nil {
		return found, err
	}
	if len(pods) == 0 && istio.Replicas(istiod) > 0 {
		found.state, found.waiting = patches.StateMissing, true
	}
	if found.restartedFor == r.injector.Digest() && !rolledOut(istiod) {
		found.waiting = true
	}
	for i := range pods {
		pod, err := r.inspectObject(patches.Pod, &pods[i])
		if err != nil {
			return found, err
		}
		if pod.result.Reason != patches.BeingDeleted && worse(pod.state, found.state) {
			found.state, found.result = pod.state, pod.result
		}
	}
	return found, nil
}

// rolledOut reports whether all Pods were replaced, as `kubectl rollout status` does.
func rolledOut(istiod *unstructured.Unstructured) bool {
	number := func(path ...string) int64 {
		value, _, _ := unstructured.NestedInt64(istiod.Object, path...)
		return value
	}
	desired, updated := istio.Replicas(istiod), number("status", "updatedReplicas")
	return number("status", "observedGeneration") >= istiod.GetGeneration() && updated >= desired && number("status", "replicas") <= updated
}

func (r *Controller) inspectObject(kind patches.Kind, object *unstructured.Unstructured) (inspection, error) {
	if reason := controllers.TooLarge(object); reason != "" {
		message := fmt.Sprintf("cannot inspect the %s: %s", kind, reason)
		return inspection{state: patches.StateMissing, result: patches.Result{Report: patches.Report{Reason: patches.Malformed, Message: message}}}, nil
	}
	raw, err := object.MarshalJSON()
	if err != nil {
		return inspection{}, err
	}
	state, result := r.injector.Inspect(kind, raw)
	return inspection{state: state, result: result}, nil
}

// podsOf lists the Deployment's Pods that have not terminated.
func (r *Controller) podsOf(ctx context.Context, istiod *unstructured.Unstructured) ([]unstructured.Unstructured, error) {
	matchLabels, _, err := unstructured.NestedStringMap(istiod.Object, "spec", "selector", "matchLabels")
	if err != nil {
		return nil, err
	}
	pods, err := controllers.List(ctx, r.client, controllers.PodKind, client.InNamespace(istiod.GetNamespace()), client.MatchingLabels(matchLabels))
	return slices.DeleteFunc(pods, func(p unstructured.Unstructured) bool {
		return controllers.Terminated(&p)
	}), err
}

// worse orders states by how urgently they need a person.
func worse(a, b patches.State) bool {
	rank := map[patches.State]int{patches.StateInjected: 0, patches.StateSkipped: 1, patches.StateOutdated: 2, patches.StateMissing: 3}
	return rank[a] > rank[b]
}

// maxRemembered is the number of istiods whose last message is remembered.
const maxRemembered = 1024

// changed records the newest message about an istiod and reports whether it differs from the one before.
func changed(last *lru.Cache, istiod types.NamespacedName, message string) bool {
	before, known := last.Get(istiod)
	last.Add(istiod, message)
	return !known || before != message
}
