// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"fmt"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/helm"
)

// rightsTTL is how long an answer stays cached.
const rightsTTL = 30 * time.Second

// missingRightsPrefix starts each message about missing rights.
const missingRightsPrefix = "the controller may not "

// requiredRights are needed in all namespaces.
var requiredRights = []authorizationv1.ResourceAttributes{
	{Group: "apps", Resource: "deployments", Verb: "get"},
	{Group: "apps", Resource: "deployments", Verb: "patch"},
	{Group: "apps", Resource: "statefulsets", Verb: "get"},
	{Group: "apps", Resource: "statefulsets", Verb: "patch"},
	{Group: "apps", Resource: "daemonsets", Verb: "get"},
	{Group: "apps", Resource: "daemonsets", Verb: "patch"},
	{Group: "apps", Resource: "replicasets", Verb: "get"},
	{Resource: "pods", Subresource: "eviction", Verb: "create"},
}

// Rights checks whether this program may restart Pods: the chart grants that by restarts.enabled alone.
type Rights struct {
	client client.Writer
	answer *utilcache.Expiring // by answerKey
}

// answerKey is the key of the one answer.
const answerKey = "lacking"

// NewRights returns a checker that creates SelfSubjectAccessReviews, which every user may.
func NewRights(reviews client.Writer) *Rights {
	return &Rights{client: reviews, answer: utilcache.NewExpiring()}
}

// Lacking describes the missing rights and how to grant them; empty when none is missing.
func (r *Rights) Lacking(ctx context.Context) (string, error) {
	if answer, ok := r.answer.Get(answerKey); ok {
		return answer.(string), nil //nolint:forcetypeassert // set below
	}
	var lacking []string
	for i := range requiredRights {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &requiredRights[i]}}
		if err := r.client.Create(ctx, review); err != nil {
			return "", fmt.Errorf("checking the rights to restart Pods: %w", err)
		}
		if !review.Status.Allowed {
			resource := strings.TrimSuffix(requiredRights[i].Resource+"/"+requiredRights[i].Subresource, "/")
			lacking = append(lacking, requiredRights[i].Verb+" "+resource)
		}
	}
	answer := ""
	if len(lacking) > 0 {
		answer = missingRightsPrefix + strings.Join(lacking, ", ") + ": to let it restart Pods, set restarts.enabled=true, as in " + helm.Upgrade("--set restarts.enabled=true")
	}
	r.answer.Set(answerKey, answer, rightsTTL)
	return answer, nil
}
