// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// Probe is the result of creating an istiod in a dry run.
type Probe struct {
	Namespace string
	Injected  bool
	Err       error
}

// probedNamespace returns a labelled namespace, preferably with an istiod.
func probedNamespace(facts *Facts) string {
	found := ""
	for _, namespace := range facts.Namespaces.Value {
		if !namespace.Labelled || namespace.Deleting || namespace.Name == metav1.NamespaceSystem {
			continue
		}
		hasIstiod := slices.ContainsFunc(facts.Istiods.Value, func(i Istiod) bool { return i.Namespace == namespace.Name })
		if found == "" || hasIstiod {
			found = namespace.Name
		}
	}
	return found
}

// probe creates an istiod in a dry run, so that the API server calls the webhook.
func probe(ctx context.Context, writer client.Writer, namespace string, target v1alpha1.Target) *Probe {
	labels := istio.IstiodLabels
	metadata := metav1.ObjectMeta{Name: "istiod-agent-check", Namespace: namespace, Labels: labels}
	spec := corev1.PodSpec{Containers: []corev1.Container{{
		Name: patches.IstiodContainer, Image: "pilot",
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false), RunAsNonRoot: new(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}}}
	result := &Probe{Namespace: namespace}
	var stored *corev1.PodSpec
	if target == v1alpha1.TargetPods {
		pod := &corev1.Pod{ObjectMeta: metadata, Spec: spec}
		result.Err = writer.Create(ctx, pod, client.DryRunAll)
		stored = &pod.Spec
	} else {
		deployment := &appsv1.Deployment{ObjectMeta: metadata, Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		}}
		result.Err = writer.Create(ctx, deployment, client.DryRunAll)
		stored = &deployment.Spec.Template.Spec
	}
	for _, container := range slices.Concat(stored.Containers, stored.InitContainers) {
		result.Injected = result.Injected || container.Name == patches.AgentContainer
	}
	return result
}
