// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	// maxCached is the memory, in bytes, that a Deployment or Pod may take in the cache. An istiod with the agent takes about
	// 40 KiB.
	maxCached = 256 << 10
	// maxCachedField is the same for the labels, and for the annotations, of a larger one.
	maxCachedField = 16 << 10
	// tooLarge marks what the cache holds of a larger one. Kubernetes' own types have no such field, so no user can set it.
	tooLarge = "tooLarge"
)

// TooLarge explains why the controllers do not read a Deployment or Pod; empty when they do.
func TooLarge(object *unstructured.Unstructured) string {
	if object.Object[tooLarge] != true {
		return ""
	}
	return "it is far larger than an istiod, so the controllers do not read it: remove from it what istiod does not need"
}

// Shorten returns what the cache holds of an object: of a large Deployment or Pod only its identity, its service account and
// its state, and of a Pod's metadata the identity. Otherwise a user who may create Deployments labelled app=istiod in one
// namespace could fill the memory of every replica.
func Shorten(object any) any {
	switch object := object.(type) {
	case *metav1.PartialObjectMetadata:
		if object.Namespace != "" { // a Pod's: only namespaces are cached besides
			object.ObjectMeta = metav1.ObjectMeta{
				Name: object.Name, Namespace: object.Namespace, UID: object.UID, ResourceVersion: object.ResourceVersion,
				DeletionTimestamp: object.DeletionTimestamp,
			}
		}
	case *unstructured.Unstructured:
		kind := object.GroupVersionKind()
		if (kind == DeploymentKind || kind == PodKind) && afterwards(maxCached, object.Object) < 0 {
			return brief(object)
		}
	}
	return object
}

func brief(whole *unstructured.Unstructured) *unstructured.Unstructured {
	kept := Untyped(whole.GroupVersionKind())
	kept.Object[tooLarge] = true
	for _, path := range [][]string{
		{"metadata", "name"},
		{"metadata", "namespace"},
		{"metadata", "uid"},
		{"metadata", "resourceVersion"},
		{"metadata", "generation"},
		{"metadata", "creationTimestamp"},
		{"metadata", "deletionTimestamp"},
		{"metadata", "labels"},
		{"metadata", "annotations"},
		{"spec", "replicas"},
		{"spec", "serviceAccountName"},
		{"spec", "template", "spec", "serviceAccountName"},
		{"status", "replicas"},
		{"status", "phase"},
	} {
		value, found, err := unstructured.NestedFieldNoCopy(whole.Object, path...)
		if err == nil && found && afterwards(maxCachedField, value) >= 0 {
			_ = unstructured.SetNestedField(kept.Object, value, path...)
		}
	}
	return kept
}

// afterwards returns how many of a number of bytes are left after a value of an untyped object is in memory, about. It stops
// below zero.
func afterwards(bytes int, value any) int {
	const word, entry, small = 8, 4 * 8, 8 // a map has room for 8 entries at least
	switch value := value.(type) {
	case string:
		return bytes - len(value)
	case map[string]any:
		bytes -= entry * max(small, len(value))
		for key, each := range value {
			if bytes -= len(key); bytes < 0 {
				break
			}
			bytes = afterwards(bytes, each)
		}
	case []any:
		bytes -= 2 * word * len(value)
		for _, each := range value {
			if bytes < 0 {
				break
			}
			bytes = afterwards(bytes, each)
		}
	}
	return bytes - word
}
