// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"net/http"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/serve"
)

const (
	// budget is the bytes of bodies that are in flight at a time: some six reviews of istiod, half of them from one address.
	// Decoding takes at most thirty times their memory; a review larger than five eighths takes turns with its likes.
	budget     = 128 << 10
	perRequest = 2 << 10
	// maxWait is how long a review waits for its part of the budget. It leaves an API server, which waits five seconds by
	// default, the time to try again after one.
	maxWait = 2 * time.Second
)

// Bounded serves admission reviews within the budget.
func Bounded(next http.Handler) http.Handler {
	return serve.NewBudget(budget, perRequest, maxWait).Limit(maxReview, next)
}
