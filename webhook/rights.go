// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/agentrights"
	"github.com/istiod-agent/istiod-agent/internal/helm"
)

const (
	// The API server gives an admission five seconds; what is only a warning must not use them up.
	rightsTimeout = time.Second
	// How long an answer is taken for the next ones: a rollout asks about one service account many times.
	rightsTTL  = 10 * time.Second
	maxAnswers = 1000 // validationErrs than a cluster has istiods
	// Lookups per second, three SubjectAccessReviews each, and how many at once. A cluster has few istiods.
	rightsRate, rightsBurst = 1, 20
)

// Rights finds out whether the agent will be able to work where istiod is injected. It implements RightsChecker by
// SubjectAccessReviews.
//
// Anybody who reaches the admission port can ask about any service account. So it looks up only those that a stored istiod
// runs as, at a bounded rate: of another account an answer tells nothing, and costs nothing. At the first installation of an
// istiod its account is not known yet; the controller reports what it lacks by an Event, once the Deployment is stored.
type Rights struct {
	client     client.Writer
	runsIstiod func(ctx context.Context, namespace, serviceAccount string) bool
	bucket     flowcontrol.PassiveRateLimiter
	log        logr.Logger
	answers    *cache.LRUExpireCache // warnings by account
}

type account struct{ namespace, name string }

// NewRights gives a checker that asks through a client, which must be allowed to create SubjectAccessReviews. known reports
// whether an istiod runs as a service account.
func NewRights(writer client.Writer, runsIstiod func(ctx context.Context, namespace, serviceAccount string) bool, log logr.Logger) *Rights {
	return &Rights{
		client: writer, runsIstiod: runsIstiod, bucket: flowcontrol.NewTokenBucketPassiveRateLimiter(rightsRate, rightsBurst),
		log: log, answers: cache.NewLRUExpireCache(maxAnswers),
	}
}

// Warning says which rights a service account lacks and which value of the chart gives them. It is empty when none is
// lacking, for an account that no istiod runs as, and when the rights cannot be looked up now: it is a help, and no reason to
// keep istiod waiting.
func (r *Rights) Warning(ctx context.Context, namespace, serviceAccount string) string {
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	if !r.runsIstiod(ctx, namespace, serviceAccount) {
		return ""
	}
	of := account{namespace, serviceAccount}
	if cached, ok := r.answers.Get(of); ok {
		warning, _ := cached.(string)
		return warning
	}
	if !r.bucket.TryAccept() {
		return ""
	}
	lacking, err := agentrights.Lacking(ctx, r.client, of.namespace, of.name)
	if err != nil {
		r.log.Error(err, "Failed to look up the rights of the injected agent", "namespace", namespace, "serviceAccount", serviceAccount)
		return ""
	}
	warning := ""
	if len(lacking) > 0 {
		warning = fmt.Sprintf("service account %s/%s may not %s; istiod will wait in Init for its CA until it may: "+
			"set istiodSidecar.createRoleBinding=true, add {name: %s, namespace: %s} to istiodSidecar.serviceAccounts, if it is missing, and run %s",
			namespace, serviceAccount, strings.Join(lacking, ", nor "), serviceAccount, namespace, helm.Upgrade("-f values.yaml"))
	}
	r.answers.Add(of, warning, rightsTTL)
	return warning
}
