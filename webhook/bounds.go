// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"net/http"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/serve"
)

// What admission reviews in flight may take, of a container's 256 MiB: half stays for the controllers' cache, for
// connections, and for what has not been collected yet.
const (
	memoryBudget = 64 << 20
	// memoryPerByte of a review's body: the body, the objects in it as text, as values, and as Go types (bounds_test.go).
	memoryPerByte = 8
	// patience is how long a review waits for its part of the budget. It leaves an API server, which waits five seconds by
	// default, the time to try again after one.
	patience = 2 * time.Second
)

// Bounded serves admission reviews within the budget.
func Bounded(next http.Handler) http.Handler {
	return serve.NewMemory(memoryBudget, patience).Limit(maxReview, memoryPerByte, next)
}
