// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Budget is what requests in flight share: each takes a part for itself, and as much again as its body is long. It bounds
// their memory, and how many of them the processors work on. A request waits for its part, for patience at most; it is then
// answered with 429, which an API server repeats after the time that the answer names (client-go, rest/with_retry.go).
//
// The next part goes to the source address that will hold least with it, so that a small request never waits for large ones.
// An address holds no more than half of the budget, unless by one request. A request whose body is larger than the budget
// takes five eighths: one such is served at a time, and leaves room for small ones. Where the part of the next is not free,
// the newest requests of the source that holds most are abandoned if they still send their bodies: no body that trickles in
// keeps others waiting.
type Budget struct {
	total, perRequest int64
	maxWait           time.Duration

	mu     sync.Mutex
	free   int64
	active []*reservation
	queue  []*reservation
}

// reservation of the budget, which a request holds or waits for.
type reservation struct {
	source    string
	size      int64
	granted   chan struct{}
	abandoned bool
	abandon   func() // ends the reading of the body; does nothing when that is done
}

// NewBudget returns a budget of which each request takes perRequest, besides the length of its body.
func NewBudget(total, perRequest int64, maxWait time.Duration) *Budget {
	return &Budget{total: total, perRequest: perRequest, maxWait: maxWait, free: total}
}

// Limit serves requests within the budget. At most maxBody bytes of a body can be read; a request that announces more takes
// little, since its body is not to be read. One of unknown length is refused: an API server always knows it.
func (b *Budget) Limit(maxBody int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		length := r.ContentLength
		switch {
		case length < 0:
			http.Error(w, "the request's Content-Length is required", http.StatusLengthRequired)
			return
		case length > maxBody:
			length = 0
		}
		own := &reservation{
			source: sourceOf(r.RemoteAddr), size: min(b.total*5/8, b.perRequest+length), granted: make(chan struct{}),
			abandon: func() { _ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) },
		}
		b.enqueue(own)
		defer b.release(own)
		timeout := time.NewTimer(b.maxWait)
		defer timeout.Stop()
		select {
		case <-own.granted:
		case <-r.Context().Done():
			return
		case <-timeout.C:
			Busy(w)
			return
		}
		r.Body = &countedBody{ReadCloser: r.Body, remaining: maxBody}
		next.ServeHTTP(w, r)
	})
}

// Busy answers that the server has too much to do: the client is to try again in a second.
func Busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "too many admission reviews at a time", http.StatusTooManyRequests)
}

// ErrTooLarge is of a body that is larger than its part of the budget.
var ErrTooLarge = errors.New("the request's body is too large")

// countedBody ends with an error after more bytes than were paid for.
type countedBody struct {
	io.ReadCloser
	remaining int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	if c.remaining < 0 {
		return 0, ErrTooLarge
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.remaining+1)])
	if c.remaining -= int64(n); c.remaining < 0 {
		return n, ErrTooLarge
	}
	return n, err
}

func (b *Budget) enqueue(p *reservation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, p)
	b.grant()
}

// release gives a part back, or gives up waiting for it.
func (b *Budget) release(p *reservation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.active, p); i >= 0 {
		b.active = slices.Delete(b.active, i, i+1)
		b.free += p.size
	} else if i := slices.Index(b.queue, p); i >= 0 {
		b.queue = slices.Delete(b.queue, i, i+1)
	}
	b.grant()
}

// grant gives parts to those whose turn it is, as far as the budget goes.
func (b *Budget) grant() {
	reserved := map[string]int64{}
	for _, p := range b.active {
		reserved[p.source] += p.size
	}
	for {
		next, least := -1, int64(0)
		for i, p := range b.queue {
			would := reserved[p.source] + p.size
			if mayHold := reserved[p.source] == 0 || would <= b.total/2; mayHold && (next < 0 || would < least) {
				next, least = i, would
			}
		}
		if next < 0 {
			return
		}
		p := b.queue[next]
		if p.size > b.free {
			b.makeRoom(p, reserved)
			return
		}
		b.queue = slices.Delete(b.queue, next, next+1)
		b.active = append(b.active, p)
		b.free -= p.size
		reserved[p.source] += p.size
		close(p.granted)
	}
}

// makeRoom abandons the newest requests of the sources that hold most, until there will be room for one that holds less.
func (b *Budget) makeRoom(next *reservation, reserved map[string]int64) {
	remaining := map[string]int64{} // that sources will hold
	room := b.free
	for _, p := range b.active {
		if p.abandoned {
			room += p.size
		} else {
			remaining[p.source] += p.size
		}
	}
	for room < next.size {
		victim := -1
		for i, p := range b.active {
			if !p.abandoned && remaining[p.source] > reserved[next.source]+next.size && (victim < 0 || remaining[p.source] >= remaining[b.active[victim].source]) {
				victim = i
			}
		}
		if victim < 0 {
			return
		}
		p := b.active[victim]
		p.abandoned = true
		p.abandon()
		room += p.size
		remaining[p.source] -= p.size
	}
}
