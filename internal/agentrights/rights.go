// SPDX-License-Identifier: Apache-2.0

// Package agentrights knows which rights at the API server the agent in istiod's Pod cannot do without, and finds out
// whether a service account has them.
package agentrights

import (
	"context"
	"sync"

	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// needed is what the agent cannot do without (docs/agent.md, "What it needs").
var needed = []authorizationv1.ResourceAttributes{
	{Verb: "list", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates"},
	{Verb: "watch", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates"},
	{Verb: "patch", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates", Subresource: "status"},
}

// Lacking names the rights that a service account does not have, asking for all of them at once by
// SubjectAccessReviews, which whoever asks must be allowed to create.
func Lacking(ctx context.Context, asking client.Writer, namespace, serviceAccount string) ([]string, error) {
	reviews := make([]*authorizationv1.SubjectAccessReview, len(needed))
	errs := make([]error, len(needed))
	var pending sync.WaitGroup
	for i, right := range needed {
		right.Namespace = namespace
		reviews[i] = &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + namespace + ":" + serviceAccount,
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
			ResourceAttributes: &right,
		}}
		pending.Go(func() { errs[i] = asking.Create(ctx, reviews[i]) })
	}
	pending.Wait()
	var lacking []string
	for i, review := range reviews {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if !review.Status.Allowed {
			resource := needed[i].Resource
			if needed[i].Subresource != "" {
				resource += "/" + needed[i].Subresource
			}
			lacking = append(lacking, needed[i].Verb+" "+resource+"."+needed[i].Group)
		}
	}
	return lacking, nil
}
