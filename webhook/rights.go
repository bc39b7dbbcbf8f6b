// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// The API server gives an admission five seconds; what is only a warning must not use them up.
	rightsTimeout = time.Second
	// How long an answer is taken for the next ones: a rollout asks about one service account many times.
	rightsAnswer = 10 * time.Second
)

// agentRights is what the agent in istiod's Pod cannot do without (docs/agent.md, "What it needs").
var agentRights = []authorizationv1.ResourceAttributes{
	{Verb: "list", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates"},
	{Verb: "watch", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates"},
	{Verb: "patch", Group: "certificates.mesh.gloo.solo.io", Version: "v1", Resource: "issuedcertificates", Subresource: "status"},
}

// Rights finds out, while istiod is injected, whether the agent will be able to work there. It implements RightsChecker
// by SubjectAccessReviews.
type Rights struct {
	client client.Writer
	log    logr.Logger
	now    func() time.Time

	mu      sync.Mutex
	answers map[account]answer
}

type account struct{ namespace, name string }

type answer struct {
	warning string
	until   time.Time
}

// NewRights gives a checker that asks through a client, which must be allowed to create SubjectAccessReviews.
func NewRights(asking client.Writer, log logr.Logger) *Rights {
	return &Rights{client: asking, log: log, now: time.Now, answers: map[account]answer{}}
}

// Warning says which rights a service account lacks and which value of the chart gives them; it is empty when none is
// lacking, and when that cannot be found out: it is a help, and no reason to keep istiod waiting.
func (r *Rights) Warning(ctx context.Context, namespace, serviceAccount string) string {
	of := account{namespace, serviceAccount}
	r.mu.Lock()
	known, ok := r.answers[of]
	r.mu.Unlock()
	if ok && r.now().Before(known.until) {
		return known.warning
	}
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	lacking, err := r.lacking(ctx, of)
	if err != nil {
		r.log.Info("The rights of the injected agent could not be looked up", "namespace", namespace, "serviceAccount", serviceAccount, "cause", err.Error())
		return ""
	}
	warning := ""
	if len(lacking) > 0 {
		warning = fmt.Sprintf("service account %s/%s may not %s; istiod will wait in Init for its CA until it may: "+
			"set istiodSidecar.createRoleBinding=true, add {name: %s, namespace: %s} to istiodSidecar.serviceAccounts, and run helm upgrade",
			namespace, serviceAccount, strings.Join(lacking, ", nor "), serviceAccount, namespace)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) > 1000 { // more than there are istiods
		clear(r.answers)
	}
	r.answers[of] = answer{warning, r.now().Add(rightsAnswer)}
	return warning
}

// lacking names the rights that a service account does not have, asking for all of them at once.
func (r *Rights) lacking(ctx context.Context, of account) ([]string, error) {
	reviews := make([]*authorizationv1.SubjectAccessReview, len(agentRights))
	errs := make([]error, len(agentRights))
	var asking sync.WaitGroup
	for i, right := range agentRights {
		right.Namespace = of.namespace
		reviews[i] = &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + of.namespace + ":" + of.name,
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + of.namespace, "system:authenticated"},
			ResourceAttributes: &right,
		}}
		asking.Go(func() { errs[i] = r.client.Create(ctx, reviews[i]) })
	}
	asking.Wait()
	var lacking []string
	for i, review := range reviews {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if !review.Status.Allowed {
			right := agentRights[i]
			resource := right.Resource
			if right.Subresource != "" {
				resource += "/" + right.Subresource
			}
			lacking = append(lacking, right.Verb+" "+resource+"."+right.Group)
		}
	}
	return lacking, nil
}
