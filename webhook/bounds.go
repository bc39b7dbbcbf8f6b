// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"net/http"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/serve"
)

const (
	// budget is the bytes of request bodies in flight: about six reviews of istiod, half of them from one address. Decoding
	// takes at most thirty times their memory. Reviews larger than five eighths of it are served one at a time.
	budget     = 128 << 10
	perRequest = 2 << 10
	// maxWait is how long a review waits for its share of the budget. An API server, whose default timeout is five seconds,
	// can retry once after it.
	maxWait = 2 * time.Second
)

// Bounded serves admission reviews within the budget.
func Bounded(next http.Handler) http.Handler {
	return serve.NewBudget(budget, perRequest, maxWait).Limit(maxReview, next)
}
