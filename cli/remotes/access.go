// SPDX-License-Identifier: Apache-2.0

package remotes

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ReadsSecrets reports whether a service account may list the Secrets of all namespaces. It creates a SubjectAccessReview, which
// the caller must be allowed to.
func ReadsSecrets(ctx context.Context, reviewer client.Writer, account types.NamespacedName) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:               "system:serviceaccount:" + account.Namespace + ":" + account.Name,
		Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + account.Namespace, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Version: "v1", Resource: "secrets"},
	}}
	err := reviewer.Create(ctx, review)
	return review.Status.Allowed, err
}
