// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/util/flowcontrol"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/agentrights"
	"github.com/istiod-agent/istiod-agent/internal/helm"
)

const (
	// rightsTimeout: the API server gives an admission five seconds, of which a warning must not take much.
	rightsTimeout = time.Second
	// How long an answer is taken for the next ones: a rollout asks about one service account many times.
	rightsTTL  = 10 * time.Second
	maxAnswers = 1000 // more than a cluster has istiods
	// Lookups per second, of three SubjectAccessReviews each, and burst. A cluster has few istiods.
	rightsRate, rightsBurst = 1, 20
)

// Rights looks up, by SubjectAccessReviews, whether the agent has the rights that it needs where istiod is injected.
//
// Any client that reaches the admission port can send any service account. Rights therefore looks up only accounts of stored
// istiods, at a bounded rate: a response reveals nothing about other accounts. At the first installation of an istiod its
// account is unknown; the controller reports missing rights by an Event once the Deployment is stored.
type Rights struct {
	client     client.Writer
	runsIstiod func(ctx context.Context, namespace, serviceAccount string) bool
	bucket     flowcontrol.PassiveRateLimiter
	log        logr.Logger
	answers    *cache.LRUExpireCache // warnings by account
}

// NewRights returns a checker whose client must be allowed to create SubjectAccessReviews. runsIstiod reports whether an
// istiod runs as a service account.
func NewRights(writer client.Writer, runsIstiod func(ctx context.Context, namespace, serviceAccount string) bool, log logr.Logger) *Rights {
	return &Rights{
		client: writer, runsIstiod: runsIstiod, bucket: flowcontrol.NewTokenBucketPassiveRateLimiter(rightsRate, rightsBurst),
		log: log, answers: cache.NewLRUExpireCache(maxAnswers),
	}
}

// Warning lists the rights that a service account lacks and the chart value that grants them. It is empty if none is missing,
// if no istiod runs as the account, and if the rights cannot be looked up now.
func (r *Rights) Warning(ctx context.Context, namespace, serviceAccount string) string {
	ctx, cancel := context.WithTimeout(ctx, rightsTimeout)
	defer cancel()
	if !r.runsIstiod(ctx, namespace, serviceAccount) {
		return ""
	}
	of := types.NamespacedName{Namespace: namespace, Name: serviceAccount}
	if cached, ok := r.answers.Get(of); ok {
		warning, _ := cached.(string)
		return warning
	}
	if !r.bucket.TryAccept() {
		return ""
	}
	lacking, err := agentrights.Lacking(ctx, r.client, namespace, serviceAccount)
	if err != nil {
		r.log.Error(err, "Failed to look up the rights of the injected agent", "namespace", namespace, "serviceAccount", serviceAccount)
		return ""
	}
	warning := ""
	if len(lacking) > 0 {
		warning = fmt.Sprintf("service account %s/%s may not %s; until it may, istiod waits in Init for its CA: "+
			"set istiodSidecar.createRoleBinding=true, add {name: %s, namespace: %s} to istiodSidecar.serviceAccounts, if it is missing, and run %s",
			namespace, serviceAccount, strings.Join(lacking, ", nor "), serviceAccount, namespace, helm.Upgrade("-f values.yaml"))
	}
	r.answers.Add(of, warning, rightsTTL)
	return warning
}
