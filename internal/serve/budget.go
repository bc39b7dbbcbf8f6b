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
	patience          time.Duration

	mu      sync.Mutex
	free    int64
	holding []*part
	waiting []*part
}

// part of the budget, which a request holds or waits for.
type part struct {
	source    string
	size      int64
	granted   chan struct{}
	abandoned bool
	abandon   func() // ends the reading of the body; does nothing when that is done
}

// NewBudget returns a budget of which each request takes perRequest, besides the length of its body.
func NewBudget(total, perRequest int64, patience time.Duration) *Budget {
	return &Budget{total: total, perRequest: perRequest, patience: patience, free: total}
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
		held := &part{
			source: sourceOf(r.RemoteAddr), size: min(b.total*5/8, b.perRequest+length), granted: make(chan struct{}),
			abandon: func() { _ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) },
		}
		b.request(held)
		defer b.release(held)
		patience := time.NewTimer(b.patience)
		defer patience.Stop()
		select {
		case <-held.granted:
		case <-r.Context().Done():
			return
		case <-patience.C:
			Busy(w)
			return
		}
		r.Body = &countedBody{ReadCloser: r.Body, left: maxBody}
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
	left int64
}

func (c *countedBody) Read(p []byte) (int, error) {
	if c.left < 0 {
		return 0, ErrTooLarge
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left+1)])
	if c.left -= int64(n); c.left < 0 {
		return n, ErrTooLarge
	}
	return n, err
}

func (b *Budget) request(p *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, p)
	b.grant()
}

// release gives a part back, or gives up waiting for it.
func (b *Budget) release(p *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.holding, p); i >= 0 {
		b.holding = slices.Delete(b.holding, i, i+1)
		b.free += p.size
	} else if i := slices.Index(b.waiting, p); i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	b.grant()
}

// grant gives parts to those whose turn it is, as far as the budget goes.
func (b *Budget) grant() {
	held := map[string]int64{}
	for _, p := range b.holding {
		held[p.source] += p.size
	}
	for {
		next, least := -1, int64(0)
		for i, p := range b.waiting {
			would := held[p.source] + p.size
			if mayHold := held[p.source] == 0 || would <= b.total/2; mayHold && (next < 0 || would < least) {
				next, least = i, would
			}
		}
		if next < 0 {
			return
		}
		p := b.waiting[next]
		if p.size > b.free {
			b.makeRoom(p, held)
			return
		}
		b.waiting = slices.Delete(b.waiting, next, next+1)
		b.holding = append(b.holding, p)
		b.free -= p.size
		held[p.source] += p.size
		close(p.granted)
	}
}

// makeRoom abandons the newest requests of the sources that hold most, until there will be room for one that holds less.
func (b *Budget) makeRoom(next *part, held map[string]int64) {
	left := map[string]int64{} // that sources will hold
	room := b.free
	for _, p := range b.holding {
		if p.abandoned {
			room += p.size
		} else {
			left[p.source] += p.size
		}
	}
	for room < next.size {
		victim := -1
		for i, p := range b.holding {
			if !p.abandoned && left[p.source] > held[next.source]+next.size && (victim < 0 || left[p.source] >= left[b.holding[victim].source]) {
				victim = i
			}
		}
		if victim < 0 {
			return
		}
		p := b.holding[victim]
		p.abandoned = true
		p.abandon()
		room += p.size
		left[p.source] -= p.size
	}
}
