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

// requestCost is what a request costs besides its body: its goroutine, its headers and its answer.
const requestCost = 512 << 10

// Memory is a budget of bytes that requests in flight share. A request waits for its part, for patience at most; it is then
// answered with 429, which an API server repeats after the time that the answer names (client-go, rest/with_retry.go).
//
// The next part goes to the source address that will hold least with it, so that a small request never waits for large ones.
// An address holds no more than half of the budget, unless by one request. Where the part of the next is not free, the newest requests of the source that holds most are abandoned if they
// still send their bodies: no body that trickles in keeps others waiting.
type Memory struct {
	total    int64
	patience time.Duration

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

// NewMemory returns a budget of so many bytes.
func NewMemory(total int64, patience time.Duration) *Memory {
	return &Memory{total: total, patience: patience, free: total}
}

// Limit serves requests within the budget. Each costs perByte times its body, of which at most maxBody bytes can be read;
// one that announces more costs little, since its body is not to be read. One of unknown length is refused: an API server
// always knows it.
func (m *Memory) Limit(maxBody, perByte int64, next http.Handler) http.Handler {
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
			source: sourceOf(r.RemoteAddr), size: min(m.total, requestCost+perByte*length), granted: make(chan struct{}),
			abandon: func() { _ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) },
		}
		m.request(held)
		defer m.release(held)
		patience := time.NewTimer(m.patience)
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

func (b *countedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, ErrTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return n, ErrTooLarge
	}
	return n, err
}

func (m *Memory) request(p *part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting = append(m.waiting, p)
	m.grant()
}

// release gives a part back, or gives up waiting for it.
func (m *Memory) release(p *part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.holding, p); i >= 0 {
		m.holding = slices.Delete(m.holding, i, i+1)
		m.free += p.size
	} else if i := slices.Index(m.waiting, p); i >= 0 {
		m.waiting = slices.Delete(m.waiting, i, i+1)
	}
	m.grant()
}

// grant gives parts to those whose turn it is, as far as the budget goes.
func (m *Memory) grant() {
	held := map[string]int64{}
	for _, p := range m.holding {
		held[p.source] += p.size
	}
	for {
		next, least := -1, int64(0)
		for i, p := range m.waiting {
			would := held[p.source] + p.size
			if mayHold := held[p.source] == 0 || would <= m.total/2; mayHold && (next < 0 || would < least) {
				next, least = i, would
			}
		}
		if next < 0 {
			return
		}
		p := m.waiting[next]
		if p.size > m.free {
			m.makeRoom(p, held)
			return
		}
		m.waiting = slices.Delete(m.waiting, next, next+1)
		m.holding = append(m.holding, p)
		m.free -= p.size
		held[p.source] += p.size
		close(p.granted)
	}
}

// makeRoom abandons the newest requests of the sources that hold most, until there will be room for one that holds less.
func (m *Memory) makeRoom(next *part, held map[string]int64) {
	left := map[string]int64{} // that sources will hold
	room := m.free
	for _, p := range m.holding {
		if p.abandoned {
			room += p.size
		} else {
			left[p.source] += p.size
		}
	}
	for room < next.size {
		victim := -1
		for i, p := range m.holding {
			if !p.abandoned && left[p.source] > held[next.source]+next.size && (victim < 0 || left[p.source] >= left[m.holding[victim].source]) {
				victim = i
			}
		}
		if victim < 0 {
			return
		}
		p := m.holding[victim]
		p.abandoned = true
		p.abandon()
		room += p.size
		left[p.source] -= p.size
	}
}
