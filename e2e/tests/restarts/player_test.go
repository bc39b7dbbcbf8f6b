// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// player does the work of kube-controller-manager and the kubelets: it creates the Pods of workloads, ready at once, and
// replaces them when their template changes.
type player struct {
	namespaces []string
	// born is told of each new Pod.
	born func(ctx context.Context, pod *corev1.Pod) error

	mu     sync.Mutex
	paused map[string]bool // workloads whose rollouts do not go on, by namespace/name
}

// play runs until the test ends.
func (p *player) play(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, namespace := range p.namespaces {
				// What another has changed meanwhile is looked at again with the next tick.
				if err := p.look(ctx, namespace); err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
					t.Errorf("playing the controllers of %s: %v", namespace, err)
				}
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait() })
}

// pause pauses or resumes a workload's rollout.
func (p *player) pause(namespace, name string, paused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == nil {
		p.paused = map[string]bool{}
	}
	p.paused[namespace+"/"+name] = paused
}

func (p *player) isPaused(object client.Object) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused[object.GetNamespace()+"/"+object.GetName()]
}

func (p *player) look(ctx context.Context, namespace string) error {
	var deployments appsv1.DeploymentList
	var statefulSets appsv1.StatefulSetList
	var daemonSets appsv1.DaemonSetList
	var replicaSets appsv1.ReplicaSetList
	for _, list := range []client.ObjectList{&deployments, &statefulSets, &daemonSets, &replicaSets} {
		if err := shared.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return err
		}
	}
	for i := range deployments.Items {
		if err := p.deployment(ctx, &deployments.Items[i]); err != nil {
			return err
		}
	}
	for i := range statefulSets.Items {
		set := &statefulSets.Items[i]
		n, err := p.pods(ctx, set, "StatefulSet", &set.Spec.Template, *set.Spec.Replicas)
		if err != nil || n < 0 || set.Status.ObservedGeneration == set.Generation && set.Status.ReadyReplicas == n {
			if err != nil {
				return err
			}
			continue
		}
		set.Status = appsv1.StatefulSetStatus{ObservedGeneration: set.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n}
		if err := shared.Status().Update(ctx, set); err != nil {
			return err
		}
	}
	for i := range daemonSets.Items {
		set := &daemonSets.Items[i]
		n, err := p.pods(ctx, set, "DaemonSet", &set.Spec.Template, 1)
		if err != nil || n < 0 || set.Status.ObservedGeneration == set.Generation && set.Status.NumberAvailable == n {
			if err != nil {
				return err
			}
			continue
		}
		set.Status = appsv1.DaemonSetStatus{ObservedGeneration: set.Generation, DesiredNumberScheduled: n, CurrentNumberScheduled: n, UpdatedNumberScheduled: n, NumberReady: n, NumberAvailable: n}
		if err := shared.Status().Update(ctx, set); err != nil {
			return err
		}
	}
	for i := range replicaSets.Items {
		set := &replicaSets.Items[i]
		if owner := metav1.GetControllerOf(set); owner != nil && owner.Kind == "Deployment" {
			continue
		}
		if _, err := p.pods(ctx, set, "ReplicaSet", &set.Spec.Template, *set.Spec.Replicas); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) deployment(ctx context.Context, d *appsv1.Deployment) error {
	if p.isPaused(d) {
		return nil
	}
	hash, err := hashOf(&d.Spec.Template)
	if err != nil {
		return err
	}
	current := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Namespace: d.Namespace, Labels: d.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(0)), Selector: d.Spec.Selector, Template: d.Spec.Template},
	}
	if err := shared.Get(ctx, client.ObjectKeyFromObject(current), current); apierrors.IsNotFound(err) {
		err = shared.Create(ctx, current)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	n, err := p.pods(ctx, current, "ReplicaSet", &d.Spec.Template, *d.Spec.Replicas)
	if err != nil {
		return err
	}
	var all appsv1.ReplicaSetList
	if err := shared.List(ctx, &all, client.InNamespace(d.Namespace)); err != nil {
		return err
	}
	for i := range all.Items {
		old := &all.Items[i]
		if owner := metav1.GetControllerOf(old); owner == nil || owner.UID != d.UID || old.Name == current.Name {
			continue
		}
		if _, err := p.pods(ctx, old, "ReplicaSet", nil, 0); err != nil {
			return err
		}
		if err := shared.Delete(ctx, old); err != nil {
			return err
		}
	}
	if d.Status.ObservedGeneration == d.Generation && d.Status.AvailableReplicas == n && d.Status.UpdatedReplicas == n {
		return nil
	}
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
	return shared.Status().Update(ctx, d)
}

// pods creates the Pods of an owner by a template and deletes the others. It returns their number, negative if the owner is
// paused.
func (p *player) pods(ctx context.Context, owner client.Object, kind string, template *corev1.PodTemplateSpec, want int32) (int32, error) {
	if p.isPaused(owner) {
		return -1, nil
	}
	hash := ""
	if template != nil {
		var err error
		if hash, err = hashOf(template); err != nil {
			return 0, err
		}
	}
	var list corev1.PodList
	if err := shared.List(ctx, &list, client.InNamespace(owner.GetNamespace())); err != nil {
		return 0, err
	}
	var n int32
	for i := range list.Items {
		pod := &list.Items[i]
		switch of := metav1.GetControllerOf(pod); {
		case of == nil || of.UID != owner.GetUID():
		case pod.Labels[hashLabel] == hash && n < want:
			n++
		default:
			if err := shared.Delete(ctx, pod, client.GracePeriodSeconds(0)); err != nil {
				return 0, err
			}
		}
	}
	for ; n < want; n++ {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				GenerateName: owner.GetName() + "-", Namespace: owner.GetNamespace(), Labels: map[string]string{hashLabel: hash}, Annotations: template.Annotations,
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind(kind))},
			},
			Spec: *template.Spec.DeepCopy(),
		}
		maps.Copy(pod.Labels, template.Labels)
		pod.Spec.ServiceAccountName, pod.Spec.AutomountServiceAccountToken = "default", new(false)
		if err := shared.Create(ctx, pod); err != nil {
			return 0, err
		}
		if err := makeReady(ctx, pod); err != nil {
			return 0, err
		}
		if p.born != nil {
			if err := p.born(ctx, pod); err != nil { // as a Pod that does not come up: the next one may
				return 0, errors.Join(err, shared.Delete(ctx, pod, client.GracePeriodSeconds(0)))
			}
		}
	}
	return n, nil
}

const hashLabel = "pod-template-hash"

func hashOf(template *corev1.PodTemplateSpec) (string, error) {
	raw, err := json.Marshal(template)
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:4]), err
}

func makeReady(ctx context.Context, pod *corev1.Pod) error {
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return shared.Status().Update(ctx, pod)
}

// untyped returns an object of a CRD.
func untyped(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetAPIVersion(apiVersion)
	object.SetKind(kind)
	object.SetNamespace(namespace)
	object.SetName(name)
	return object
}

// names returns the names of Pods with a label.
func names(t *testing.T, namespace, label, value string) []string {
	t.Helper()
	var list corev1.PodList
	if err := shared.List(t.Context(), &list, client.InNamespace(namespace), client.MatchingLabels{label: value}); err != nil {
		t.Fatal(err)
	}
	var all []string
	for i := range list.Items {
		all = append(all, fmt.Sprint(list.Items[i].Name))
	}
	return all
}
