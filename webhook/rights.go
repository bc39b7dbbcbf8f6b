// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/agentrights"
)

const (
	// The API server gives an admission five seconds; what is only a warning must not use them up.
	rightsTimeout = time.Second
	// How long an answer is taken for the next ones: a rollout asks about one service account many times.
	rightsAnswer = 10 * time.Second
)

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
	lacking, err := agentrights.Lacking(ctx, r.client, of.namespace, of.name)
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
