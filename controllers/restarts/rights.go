// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"fmt"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/helm"
)

// rightsTTL is how long an answer stays cached.
const rightsTTL = 30 * time.Second

// missingRightsPrefix starts each message about missing rights.
const missingRightsPrefix = "the controller may not "

// requiredRights are needed in each namespace.
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
	client     client.Writer
	namespaces []string
	answer     *utilcache.Expiring // by answerKey
}

// answerKey is the key of the one answer.
const answerKey = "lacking"

// NewRights returns a checker of the rights in some namespaces, without any of those in all namespaces. It creates
// SelfSubjectAccessReviews, which every user may.
func NewRights(reviews client.Writer, namespaces []string) *Rights {
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	return &Rights{client: reviews, namespaces: namespaces, answer: utilcache.NewExpiring()}
}

// Lacking describes the missing rights and how to grant them; empty when none is missing.
func (r *Rights) Lacking(ctx context.Context) (string, error) {
	if answer, ok := r.answer.Get(answerKey); ok {
		return answer.(string), nil //nolint:forcetypeassert // set below
	}
	answer := ""
	for _, namespace := range r.namespaces {
		lacking, err := r.lackingIn(ctx, namespace)
		if err != nil {
			return "", err
		}
		if len(lacking) == 0 {
			continue
		}
		where := ""
		if namespace != metav1.NamespaceAll {
			where = " in namespace " + namespace
		}
		answer = missingRightsPrefix + strings.Join(lacking, ", ") + where + ": to let it restart Pods, set restarts.enabled=true, as in " + helm.Upgrade("--set restarts.enabled=true")
		break
	}
	r.answer.Set(answerKey, answer, rightsTTL)
	return answer, nil
}

func (r *Rights) lackingIn(ctx context.Context, namespace string) (lacking []string, err error) {
	for _, right := range requiredRights {
		right.Namespace = namespace
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right}}
		if err := r.client.Create(ctx, review); err != nil {
			return nil, fmt.Errorf("checking the rights to restart Pods: %w", err)
		}
		if !review.Status.Allowed {
			lacking = append(lacking, right.Verb+" "+strings.TrimSuffix(right.Resource+"/"+right.Subresource, "/"))
		}
	}
	return lacking, nil
}
