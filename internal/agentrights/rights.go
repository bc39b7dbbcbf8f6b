// SPDX-License-Identifier: Apache-2.0

// Package agentrights checks whether a service account has the rights at the API server that the agent needs.
package agentrights

import (
	"context"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// required are the rights that the agent needs (docs/agent.md, "What it needs").
var required = []authorizationv1.ResourceAttributes{
	{Verb: "list", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates"},
	{Verb: "watch", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates"},
	{Verb: "patch", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates", Subresource: "status"},
}

// forCertManager are those for an issuer of cert-manager (docs/cert-manager.md).
var forCertManager = []authorizationv1.ResourceAttributes{
	{Verb: "create", Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"},
	{Verb: "get", Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"},
	{Verb: "list", Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"},
	{Verb: "watch", Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"},
	{Verb: "delete", Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"},
}

// Lacking returns the missing rights of a service account. It creates SubjectAccessReviews, which the caller must be
// allowed to.
func Lacking(ctx context.Context, reviewer client.Writer, namespace, serviceAccount string) ([]string, error) {
	return lacking(ctx, reviewer, namespace, serviceAccount, required)
}

// LackingForCertManager returns those that only the agents of cert-manager's issuers need.
func LackingForCertManager(ctx context.Context, reviewer client.Writer, namespace, serviceAccount string) ([]string, error) {
	return lacking(ctx, reviewer, namespace, serviceAccount, forCertManager)
}

func lacking(ctx context.Context, reviewer client.Writer, namespace, serviceAccount string, required []authorizationv1.ResourceAttributes) ([]string, error) {
	reviews := make([]*authorizationv1.SubjectAccessReview, len(required))
	var pending errgroup.Group
	for i, right := range required {
		right.Namespace = namespace
		reviews[i] = &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + namespace + ":" + serviceAccount,
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
			ResourceAttributes: &right,
		}}
		pending.Go(func() error { return reviewer.Create(ctx, reviews[i]) })
	}
	if err := pending.Wait(); err != nil {
		return nil, err
	}
	var missing []string
	for i, review := range reviews {
		if !review.Status.Allowed {
			resource := required[i].Resource
			if required[i].Subresource != "" {
				resource += "/" + required[i].Subresource
			}
			missing = append(missing, required[i].Verb+" "+resource+"."+required[i].Group)
		}
	}
	return missing, nil
}

// Local returns a reviewer for a caller who may create LocalSubjectAccessReviews in the accounts' namespaces alone.
func Local(reviewer client.Writer) client.Writer { return localReviewer{reviewer} }

type localReviewer struct{ client.Writer }

// Create answers a SubjectAccessReview by one in the namespace that it asks about.
func (l localReviewer) Create(ctx context.Context, object client.Object, options ...client.CreateOption) error {
	review, ok := object.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return l.Writer.Create(ctx, object, options...)
	}
	local := &authorizationv1.LocalSubjectAccessReview{Spec: review.Spec}
	local.Namespace = review.Spec.ResourceAttributes.Namespace
	err := l.Writer.Create(ctx, local, options...)
	review.Status = local.Status
	return err
}
