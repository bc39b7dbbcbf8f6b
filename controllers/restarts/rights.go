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

// rightsTTL is how long an answer is taken for the next ones.
const rightsTTL = 30 * time.Second

// missingRightsPrefix begins what is said about rights.
const missingRightsPrefix = "the controller may not "

// requiredRights is what restarting takes, in all namespaces.
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

// Rights finds out whether this program may restart Pods; the chart gives it that only when told to.
type Rights struct {
	client client.Writer
	answer *utilcache.Expiring // by answerKey
}

// answerKey is the key of the one answer.
const answerKey = "lacking"

// NewRights gives one that asks by SelfSubjectAccessReviews, which everybody may create.
func NewRights(asking client.Writer) *Rights {
	return &Rights{client: asking, answer: utilcache.NewExpiring()}
}

// Lacking says in words what may not be done and how to give leave; it is empty when nothing is lacking.
func (r *Rights) Lacking(ctx context.Context) (string, error) {
	if answer, ok := r.answer.Get(answerKey); ok {
		return answer.(string), nil //nolint:forcetypeassert // set below
	}
	var lacking []string
	for i := range requiredRights {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &requiredRights[i]}}
		if err := r.client.Create(ctx, review); err != nil {
			return "", fmt.Errorf("asking whether Pods may be restarted: %w", err)
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
