// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

const otherKind = "istiod-agent injects Deployments labelled app=istiod and nothing else"

// kinds with a Pod template.
var kinds = map[string]func(corev1.PodTemplateSpec) client.Object{
	"StatefulSet": func(template corev1.PodTemplateSpec) client.Object {
		return &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: template, Selector: selector(template)}}
	},
	"DaemonSet": func(template corev1.PodTemplateSpec) client.Object {
		return &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template, Selector: selector(template)}}
	},
	"ReplicaSet": replicaSet,
	"ReplicationController": func(template corev1.PodTemplateSpec) client.Object {
		return &corev1.ReplicationController{Spec: corev1.ReplicationControllerSpec{Template: &template, Selector: template.Labels}}
	},
	"Job": func(template corev1.PodTemplateSpec) client.Object {
		template.Spec.RestartPolicy = corev1.RestartPolicyNever
		return &batchv1.Job{Spec: batchv1.JobSpec{Template: template}}
	},
	"CronJob": func(template corev1.PodTemplateSpec) client.Object {
		template.Spec.RestartPolicy = corev1.RestartPolicyNever
		return &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: "@daily", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}}}
	},
	"Pod": podOf,
}

func replicaSet(template corev1.PodTemplateSpec) client.Object {
	return &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Template: template, Selector: selector(template)}}
}

func podOf(template corev1.PodTemplateSpec) client.Object {
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	pod.Spec.ServiceAccountName = "istiod"
	return pod
}

func selector(template corev1.PodTemplateSpec) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: template.Labels}
}

// The webhook injects Deployments only: the guard requires the agent in an istiod of another kind.
func TestKinds(t *testing.T) {
	for name, c := range map[string]*cluster.Cluster{"alone": shared, "beside the webhook": injecting} {
		namespace := namespaceOf(t, c)
		plain := newIstiod(t, v1alpha1.TargetDeployments, cluster.Istiod(t, namespace))
		agent := plain.injected(t, v1alpha1.SidecarContainer)
		optedOut, unlabelled := plain.copied(), plain.copied()
		optedOut.deployment.Spec.Template.Annotations = map[string]string{"istiod-agent.io/inject": "false"}
		unlabelled.unlabel()
		for kind, of := range kinds {
			t.Run(name+"/"+kind, func(t *testing.T) {
				create := func(i istiod) error {
					object := of(*i.deployment.Spec.Template.DeepCopy())
					object.SetName("istiod")
					object.SetNamespace(namespace)
					return c.Create(t.Context(), object, client.DryRunAll)
				}
				wantRefused(t, create(plain), otherKind)
				wantRefused(t, create(unlabelled), otherKind)
				wantRefused(t, create(optedOut), passes)
				wantRefused(t, create(agent), passes)
			})
		}
		t.Run(name+"/a Deployment whose template alone is labelled", func(t *testing.T) {
			edited := plain.copied()
			edited.meta().Labels = nil
			wantIn(t, c, namespace, edited, "check that it is labelled app=istiod")
		})
	}
}

// The guard admits ReplicaSets and Pods of a Deployment: it may have opted out, or be older than the namespace's label.
func TestControllersOfDeployments(t *testing.T) {
	namespace := namespaceOf(t, shared)
	template := newIstiod(t, v1alpha1.TargetDeployments, cluster.Istiod(t, namespace)).deployment.Spec.Template
	half := *template.DeepCopy()
	half.Spec.Containers = append(half.Spec.Containers, corev1.Container{Name: "istiod-agent", Image: "agent"})

	const deployments, replicaSets = "system:serviceaccount:kube-system:deployment-controller", "system:serviceaccount:kube-system:replicaset-controller"
	for name, test := range map[string]struct {
		object func(corev1.PodTemplateSpec) client.Object
		of     corev1.PodTemplateSpec
		owner  string
		user   string
		want   string
	}{
		"a ReplicaSet of a Deployment":                    {replicaSet, template, "Deployment", deployments, passes},
		"a ReplicaSet of somebody's, said to be of one":   {replicaSet, template, "Deployment", "", otherKind},
		"a ReplicaSet of another kind":                    {replicaSet, template, "StatefulSet", deployments, otherKind},
		"a Pod of a ReplicaSet":                           {podOf, template, "ReplicaSet", replicaSets, passes},
		"a Pod of a ReplicaSet, by one controller of all": {podOf, template, "ReplicaSet", "system:kube-controller-manager", passes},
		"a Pod of somebody's, said to be of one":          {podOf, template, "ReplicaSet", "", otherKind},
		"a Pod of a StatefulSet":                          {podOf, template, "StatefulSet", "system:serviceaccount:kube-system:statefulset-controller", otherKind},
		"a Pod of a ReplicaSet with half an agent":        {podOf, half, "ReplicaSet", replicaSets, notMemory},
	} {
		t.Run(name, func(t *testing.T) {
			object := test.object(*test.of.DeepCopy())
			object.SetName("istiod")
			object.SetNamespace(namespace)
			object.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: test.owner, Name: "istiod", UID: "a-uid", Controller: new(true)}})
			wantRefused(t, as(t, test.user).Create(t.Context(), object, client.DryRunAll), test.want)
		})
	}
}

// Kubernetes' controllers may scale and orphan objects that are older than the namespace's label. Their template must not
// change.
func TestKindsBeforeLabel(t *testing.T) {
	namespace := namespaceOf(t, shared)
	shared.Label(t, namespace, false)
	template := newIstiod(t, v1alpha1.TargetDeployments, cluster.Istiod(t, namespace)).deployment.Spec.Template
	stored := replicaSet(template).(*appsv1.ReplicaSet)
	stored.Name, stored.Namespace, stored.Spec.Replicas = "istiod", namespace, new(int32(0))
	cluster.Eventually(t, "the guard sees that the label is gone", func() error { return shared.Create(t.Context(), stored) })
	shared.Label(t, namespace, true)

	patch := func(content string) error {
		return shared.Patch(t.Context(), stored.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(content)))
	}
	const changed = `{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}`
	cluster.Eventually(t, "a change of the template is refused", func() error {
		return unlessRefused(patch(changed), otherKind)
	})
	wantRefused(t, patch(`{"spec":{"replicas":1}}`), passes)
	wantRefused(t, patch(`{"metadata":{"labels":{"a":"b"}}}`), passes)
}

// as returns a client of the cluster without the webhook for a user, or for an administrator if the user is empty.
func as(t *testing.T, user string) client.Client {
	t.Helper()
	config := rest.CopyConfig(shared.Plane.Config)
	if user != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}}
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// namespaceOf returns a labelled namespace with a guard for Deployments.
func namespaceOf(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	if c == shared {
		return guardedNamespace(t, v1alpha1.TargetDeployments)
	}
	return withServiceAccount(t, c, c.Namespace(t, true))
}

func wantRefused(t *testing.T, err error, refusal string) {
	t.Helper()
	switch {
	case refusal == passes && err != nil:
		t.Errorf("refused: %v", err)
	case refusal != passes && err == nil:
		t.Errorf("passes, want %q", refusal)
	case refusal != passes && !strings.Contains(err.Error(), refusal):
		t.Errorf("refused, without %q: %v", refusal, err)
	}
}
