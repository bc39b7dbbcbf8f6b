// SPDX-License-Identifier: Apache-2.0

// Package controllers holds what all of the controllers below share: which istiods and namespaces are theirs, and when
// the kinds are there that they watch.
package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8slabels "k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/patches"
)

// NamespaceLabels opt a namespace in, as in the webhook configuration.
var NamespaceLabels = k8slabels.Set{"istiod-agent.io/injection": "enabled"}

// NotSelected returns why a Deployment labelled app=istiod is not an istiod of this project's: the webhook would not
// inject it either. It is empty for an istiod.
//
// The name of a mesh is made of names that every user of a cluster may give to a Deployment. The namespace's label is the
// permission of a person who may change namespaces.
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

// OptedIn reports whether a namespace is labelled; the cache holds no other.
func OptedIn(ctx context.Context, reader client.Reader, name string) (bool, error) {
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	err := reader.Get(ctx, types.NamespacedName{Name: name}, namespace)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}
