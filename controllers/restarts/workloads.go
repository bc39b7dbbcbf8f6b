// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const apps = "apps/v1"

// rollsOut says whether there is a rollout of such an owner, by a change of its template.
func rollsOut(owner metav1.OwnerReference) bool {
	return owner.APIVersion == apps && slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet"}, owner.Kind)
}

// workload refers to an owner.
func workload(owner metav1.OwnerReference, namespace string, method certificatesv1.RestartMethod) certificatesv1.RestartingWorkload {
	return certificatesv1.RestartingWorkload{
		APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: namespace, Name: owner.Name, UID: string(owner.UID), Method: method,
	}
}

func called(w certificatesv1.RestartingWorkload) string {
	return w.Kind + " " + w.Namespace + "/" + w.Name
}

// rollout is how a Deployment, StatefulSet or DaemonSet stands.
type rollout struct {
	// restartedFor is its template's annotation.
	restartedFor string
	paused       bool
	onDelete     bool // its Pods are replaced only when somebody deletes them
	// want is how many Pods there are to be.
	want int64
	// replaced says that all Pods are of the newest template, available that as many as wanted are there and well.
	replaced, available bool
	// heldBack says that a part keeps its template on purpose (StatefulSet's partition).
	heldBack bool
	progress string
}

// rolloutOf reads a workload as `kubectl rollout status` does (k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go).
func rolloutOf(object *unstructured.Unstructured) rollout {
	number := func(otherwise int64, path ...string) int64 {
		value, given, _ := unstructured.NestedInt64(object.Object, path...)
		if !given {
			return otherwise
		}
		return value
	}
	word := func(path ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, path...)
		return value
	}
	r := rollout{restartedFor: word("spec", "template", "metadata", "annotations", certificatesv1.RestartedForRootAnnotation)}
	r.paused, _, _ = unstructured.NestedBool(object.Object, "spec", "paused")
	r.onDelete = word("spec", "updateStrategy", "type") == "OnDelete"
	observed := number(0, "status", "observedGeneration") >= object.GetGeneration()
	want := number(1, "spec", "replicas")
	var updated, available int64
	switch object.GetKind() {
	case "DaemonSet":
		want = number(0, "status", "desiredNumberScheduled")
		updated, available = number(0, "status", "updatedNumberScheduled"), number(0, "status", "numberAvailable")
		r.replaced = observed && updated >= want
	case "StatefulSet":
		partition := number(0, "spec", "updateStrategy", "rollingUpdate", "partition")
		r.heldBack = partition > 0 && want > 0
		updated, available = number(0, "status", "updatedReplicas"), number(0, "status", "readyReplicas")
		r.replaced = observed && (updated >= want-partition || word("status", "updateRevision") == word("status", "currentRevision"))
	default:
		updated, available = number(0, "status", "updatedReplicas"), number(0, "status", "availableReplicas")
		r.replaced = observed && updated >= want && number(0, "status", "replicas") <= updated
	}
	r.want, r.available = want, available >= want
	r.progress = fmt.Sprintf("%d of %d Pods are new, %d available", updated, want, available)
	return r
}

// restartPatch writes the annotation by which a workload's controller replaces its Pods, as `kubectl rollout restart`
// does, on just the version that was read.
func restartPatch(object *unstructured.Unstructured, roots string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": object.GetResourceVersion(), "uid": string(object.GetUID())},
		"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
			"annotations": map[string]any{certificatesv1.RestartedForRootAnnotation: roots},
		}}},
	})
}

// eviction is how the Pods of an owner stand that are replaced one by one.
type eviction struct {
	// next is the Pod to evict now, nil where something is waited for or nothing is left to do.
	next *corev1.Pod
	done bool
	// waiting says what is waited for.
	waiting string
}

// evictionOf judges the Pods of an owner: the next one's turn comes when those evicted before are gone, and the new ones
// there and ready. want is how many Pods the owner has, 0 where that is not known.
func evictionOf(of certificatesv1.RestartingWorkload, pods []corev1.Pod, want int64) eviction {
	var old []*corev1.Pod
	var going, starting []string
	there := int64(0)
	for i := range pods {
		pod := &pods[i]
		owner := metav1.GetControllerOf(pod)
		if owner == nil || owner.UID != types.UID(of.UID) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		switch {
		case pod.DeletionTimestamp != nil:
			going = append(going, pod.Name)
			continue
		case !pod.CreationTimestamp.After(sinceOf(of)):
			old = append(old, pod)
		case !ready(pod):
			starting = append(starting, pod.Name)
		}
		there++
	}
	switch {
	case len(going) > 0:
		return eviction{waiting: "Pod " + strings.Join(going, ", ") + " to end"}
	case len(starting) > 0 && of.WaitFor:
		return eviction{waiting: "Pod " + strings.Join(starting, ", ") + " to be ready"}
	case there < want && of.WaitFor:
		return eviction{waiting: fmt.Sprintf("%d Pods to be there, %d are", want, there)}
	case len(old) == 0:
		return eviction{done: true}
	}
	next := slices.MinFunc(old, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return eviction{next: next, waiting: "Pod " + next.Name + " to be replaced"}
}

func sinceOf(w certificatesv1.RestartingWorkload) time.Time {
	if w.Since == nil {
		return time.Time{}
	}
	return w.Since.Time
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
