// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
)

// recorder is an attacker's server: it records every byte and answers like a Vault that accepts all logins.
type recorder struct {
	*httptest.Server

	mu          sync.Mutex
	received    bytes.Buffer
	requests    int
	connections int
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{}
	r.Server = httptest.NewUnstartedServer(r)
	r.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			r.mu.Lock()
			r.connections++
			r.mu.Unlock()
		}
	}
	r.Start()
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	dump, err := httputil.DumpRequest(request, true)
	r.mu.Lock()
	r.requests++
	_, _ = fmt.Fprintf(&r.received, "%s\n%v\n", dump, err)
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"auth":{"client_token":"hvs.stranger"},"data":{}}`))
}

// take returns and clears the received bytes.
func (r *recorder) take() (received string, requests, connections int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	received, requests, connections = r.received.String(), r.requests, r.connections
	r.received.Reset()
	r.requests, r.connections = 0, 0
	return received, requests, connections
}

// holds returns the names of the secrets of which a text holds a part: a line of a key, the signature of a token.
func holds(text string, secrets map[string]string) (found []string) {
	for name, secret := range secrets {
		for line := range strings.Lines(secret) {
			line = strings.TrimSpace(line)
			if len(line) >= 20 && !strings.HasPrefix(line, "-----") && strings.Contains(text, line[len(line)-20:]) {
				found = append(found, name)
				break
			}
		}
	}
	return found
}
