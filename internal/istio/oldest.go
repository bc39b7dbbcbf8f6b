// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// byAge orders conflicting objects: the oldest wins, of the same age the first by namespace and name, so that every program
// chooses the same one.
func byAge(a, b metav1.Object) int {
	created := func(object metav1.Object) metav1.Time { return object.GetCreationTimestamp() }
	return cmp.Or(created(a).Compare(created(b).Time), cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// For returns the objects for a service account, oldest first, without those that are being deleted. hosts returns an object's
// SPIFFE IDs.
func For[T metav1.Object](objects []T, hosts func(T) []string, namespace, serviceAccount string) []T {
	var found []T
	for _, object := range objects {
		if object.GetDeletionTimestamp() == nil && Covers(hosts(object), namespace, serviceAccount) {
			found = append(found, object)
		}
	}
	slices.SortFunc(found, func(a, b T) int { return byAge(a, b) })
	return found
}
