// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"cmp"
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Manager is the controllers' name in managedFields and Events.
const Manager = "istiod-agent-webhook"

// Kinds from Kubernetes' own API.
var (
	DeploymentKind = schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	PodKind        = corev1.SchemeGroupVersion.WithKind("Pod")
)

// Untyped returns an empty object of a kind. Objects are read untyped because they can hold fields newer than the compiled
// API types and, where Gloo Mesh's CRD admitted them, fields of other types.
func Untyped(kind schema.GroupVersionKind) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(kind)
	return object
}

// Metadata returns an empty object of a kind, of which only the metadata is read.
func Metadata(kind schema.GroupVersionKind) *metav1.PartialObjectMetadata {
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(kind)
	return object
}

// List returns the objects of a kind. The caller must not change them: with the cache's client they are the cache's own.
func List(ctx context.Context, reader client.Reader, kind schema.GroupVersionKind, options ...client.ListOption) ([]unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	err := reader.List(ctx, list, append(options, client.UnsafeDisableDeepCopy)...)
	return list.Items, err
}

// Edited passes the changes that a person or another controller makes, and drops those of the status.
func Edited() predicate.Predicate {
	return predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}, predicate.LabelChangedPredicate{})
}

// PerNamespace maps a namespace and each namespaced object to the requests for that namespace.
func PerNamespace(requests func(ctx context.Context, namespace string) []reconcile.Request) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, object client.Object) []reconcile.Request {
		return requests(ctx, cmp.Or(object.GetNamespace(), object.GetName()))
	})
}

// Requests returns a request for each object.
func Requests(objects []unstructured.Unstructured) []reconcile.Request {
	requests := make([]reconcile.Request, 0, len(objects))
	for i := range objects {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&objects[i])})
	}
	return requests
}

// WithStatus returns a copy of an object with the given values in those fields of its status that the caller owns. Other
// programs' fields stay.
func WithStatus(object *unstructured.Unstructured, owned []string, status any) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		return nil, err
	}
	changed := object.DeepCopy()
	merged, _, _ := unstructured.NestedMap(object.Object, "status")
	if merged == nil {
		merged = map[string]any{}
	}
	for _, field := range owned {
		delete(merged, field)
		if value, ok := content[field]; ok {
			merged[field] = value
		}
	}
	changed.Object["status"] = merged
	return changed, nil
}
