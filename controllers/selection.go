// SPDX-License-Identifier: Apache-2.0

// Package controllers holds what the controllers share: the selection of istiods and namespaces, untyped objects,
// Events, and the start of controllers whose CRDs are installed later.
package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	k8slabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// NamespaceLabels are the labels of a namespace that has opted in, as in the webhook configuration.
var NamespaceLabels = k8slabels.Set{patches.InjectionLabel: patches.InjectionEnabled}

// NotSelected returns why the webhook would not inject a Deployment labelled app=istiod; empty when it would.
//
// Every user of a cluster may choose the names that form the name of a mesh. The label is the permission of a person
// who may change the namespace.
func NotSelected(ctx context.Context, reader client.Reader, deployment *unstructured.Unstructured, target patches.Kind) (string, error) {
	optedIn, err := OptedIn(ctx, reader, deployment.GetNamespace())
	switch {
	case err != nil:
		return "", err
	case deployment.GetNamespace() == metav1.NamespaceSystem:
		return "namespace " + metav1.NamespaceSystem + " is excluded from injection", nil
	case !optedIn:
		return "its namespace is not labelled " + NamespaceLabels.String(), nil
	}
	if reason := TooLarge(deployment); reason != "" {
		return reason, nil
	}
	labels, annotations := deployment.GetLabels(), deployment.GetAnnotations()
	if target == patches.Pod {
		labels, _, _ = unstructured.NestedStringMap(deployment.Object, "spec", "template", "metadata", "labels")
		annotations, _, _ = unstructured.NestedStringMap(deployment.Object, "spec", "template", "metadata", "annotations")
	}
	if labels[patches.InjectKey] == "false" || annotations[patches.InjectKey] == "false" {
		return "it is opted out by " + patches.InjectKey + "=false", nil
	}
	return "", nil
}

// OptedIn reports whether a namespace has opted in. The cache holds no other namespaces.
func OptedIn(ctx context.Context, reader client.Reader, name string) (bool, error) {
	err := reader.Get(ctx, types.NamespacedName{Name: name}, Metadata(corev1.SchemeGroupVersion.WithKind("Namespace")))
	return err == nil, client.IgnoreNotFound(err)
}

// IstiodPods limits the cache of Pods to istiod's that have not terminated: to a watch, a Pod that terminates is deleted. The
// cache of a kind is one, whichever types its objects are read into, so that all its users need the same limits.
func IstiodPods() cache.ByObject {
	return cache.ByObject{
		Label: istio.IstiodLabels.AsSelector(),
		Field: fields.AndSelectors(
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodSucceeded)),
			fields.OneTermNotEqualSelector("status.phase", string(corev1.PodFailed)),
		),
	}
}

// Terminated reports whether a Pod has ended for good; its object can stay, as after an eviction.
func Terminated(pod *unstructured.Unstructured) bool {
	phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
	return phase == string(corev1.PodSucceeded) || phase == string(corev1.PodFailed)
}
