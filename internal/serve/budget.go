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

// Budget is the memory that requests in flight share: each reserves a fixed part and the length of its body. A request waits
// for its reservation, for maxWait at most; it then gets a 429, which an API server retries after the time in the response
// (client-go, rest/with_retry.go).
//
// The next reservation goes to the source address that will hold least with it, so that small requests never wait for large
// ones. An address holds no more than half of the budget, unless by one request. A request whose body exceeds the budget
// reserves five eighths: one such is served at a time. If the budget is exhausted, the newest requests of the source that
// holds most are abandoned while they still send their bodies, so that slow bodies do not block others.
type Budget struct {
	total, perRequest int64
	maxWait           time.Duration

	mu     sync.Mutex
	free   int64
	active []*reservation
	queue  []*reservation
}

// reservation is a request's part of the budget, granted or waiting.
type reservation struct {
	source    string
	size      int64
	granted   chan struct{}
	abandoned bool
	abandon   func() // ends the reading of the body; does nothing when that is done
}

// NewBudget returns a budget from which each request reserves perRequest and the length of its body.
func NewBudget(total, perRequest int64, maxWait time.Duration) *Budget {
	return &Budget{total: total, perRequest: perRequest, maxWait: maxWait, free: total}
}

// Limit serves requests within the budget. At most maxBody bytes of a body can be read; a request that announces more reserves
// little, since its body is not read. A request of unknown length is refused: an API server always sends the length.
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

// Busy responds that the server is overloaded and that the client should retry after a second.
func Busy(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, "too many admission reviews at a time", http.StatusTooManyRequests)
}

// ErrTooLarge means that a body is larger than its reservation.
var ErrTooLarge = errors.New("the request's body is too large")

// countedBody fails after more bytes than were reserved.
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

// release returns a reservation, or cancels the wait for it.
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

// grant grants the next reservations, as far as the budget allows.
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

// makeRoom abandons the newest requests of the sources that hold most, until a source that holds less gets its reservation.
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
