// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// Target is a replica of the webhook.
type Target struct {
	Admission, Health, Metrics string // HOST:PORT
}

// TargetOf returns the addresses of a replica.
func TargetOf(replica *webhookserver.Replica) Target {
	on := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	return Target{Admission: on(replica.Port), Health: on(replica.HealthPort), Metrics: on(replica.MetricsPort)}
}

// Flood is an attack on a replica.
type Flood struct {
	Name string
	// workers is the number of attackers at a time.
	workers int
	once    func(ctx context.Context, from *attacker, target Target) error
}

// All holds all floods.
var All = []Flood{
	{"large VirtualMesh reviews", 16, post("h2", 6_800_000, meshes(6_800_000))},
	{"large VirtualMesh reviews over HTTP/1.1", 16, post("http/1.1", 6_800_000, meshes(6_800_000))},
	{"reviews of the largest size that is read", 16, post("h2", 4<<20, meshes(4<<20))},
	{"reviews of the most values that are read", 16, post("h2", 190_000, values(49_000))},
	{"reviews of unknown length", 16, post("h2", -1, meshes(6_800_000))},
	{"half-sent bodies", 64, halfBody},
	{"one HTTP/2 connection with 100 streams", 1, manyStreams},
	{"slow headers", 200, idle(true, "POST / HTTP/1.1\r\nHost: a\r\nX: ")},
	{"idle connections", 300, idle(true, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")},
	{"half handshakes", 300, idle(false, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
	{"health and metrics", 100, otherPorts},
}

// Start floods a target from several loopback addresses until the caller calls the function that it returns, which returns
// the number of attacks.
func (f Flood) Start(ctx context.Context, target Target) (stop func() int64) {
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	var times atomic.Int64
	for i := range f.workers {
		workers.Go(func() {
			from := newAttacker(fmt.Sprintf("127.0.0.%d", 10+i%4))
			defer from.http.CloseIdleConnections()
			for ctx.Err() == nil {
				if f.once(ctx, from, target) != nil { // pause after a refusal: the machine is shared
					select {
					case <-ctx.Done():
					case <-time.After(50 * time.Millisecond):
					}
				}
				times.Add(1)
			}
		})
	}
	return func() int64 {
		cancel()
		workers.Wait()
		return times.Load()
	}
}

// attacker is a client with an address of its own.
type attacker struct {
	dialer *net.Dialer
	http   *http.Transport
}

func newAttacker(address string) *attacker {
	a := &attacker{dialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: 10 * time.Second}}
	a.http = &http.Transport{DialContext: a.dialer.DialContext, ForceAttemptHTTP2: true, TLSClientConfig: stranger(), MaxConnsPerHost: 1}
	return a
}

func stranger() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// secured opens a TLS connection.
func (a *attacker) secured(ctx context.Context, address string) (net.Conn, error) {
	return (&tls.Dialer{NetDialer: a.dialer, Config: stranger()}).DialContext(ctx, "tcp", address)
}

// meshes returns a review of a VirtualMesh of about so many bytes.
func meshes(size int) []byte {
	var names strings.Builder
	for i := 0; names.Len() < size-1000; i++ {
		if i > 0 {
			names.WriteByte(',')
		}
		fmt.Fprintf(&names, `{"name":"istiod-%d-%s"}`, i, strings.Repeat("a", 200))
	}
	return review(`{"apiVersion":"networking.mesh.gloo.solo.io/v1","kind":"VirtualMesh","metadata":{"name":"a"},"spec":{"meshes":[` + names.String() + `]}}`)
}

// values returns a review of a VirtualMesh with n small values.
func values(n int) []byte {
	return review(`{"apiVersion":"networking.mesh.gloo.solo.io/v1","kind":"VirtualMesh","metadata":{"name":"a"},"spec":{"federation":{"a":[` + strings.Repeat("0,", n-1) + `0]}}}`)
}

func review(object string) []byte {
	return []byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"a","kind":{"kind":"VirtualMesh"},"operation":"CREATE","object":` + object + `}}`)
}

// post sends a whole review, chunked if the length is -1.
func post(protocol string, length int64, body []byte) func(context.Context, *attacker, Target) error {
	return func(ctx context.Context, from *attacker, target Target) error {
		if protocol != "h2" && from.http.ForceAttemptHTTP2 {
			from.http.ForceAttemptHTTP2, from.http.TLSClientConfig.NextProtos = false, []string{protocol}
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+target.Admission+webhook.VirtualMeshPath, io.NopCloser(bytes.NewReader(body)))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		if request.ContentLength = int64(len(body)); length < 0 {
			request.ContentLength = -1
		}
		answer, err := from.http.RoundTrip(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("refused: %s", answer.Status)
		}
		return err
	}
}

// halfBody sends half of the announced body and waits.
func halfBody(ctx context.Context, from *attacker, target Target) error {
	connection, err := from.secured(ctx, target.Admission)
	if err != nil {
		return err
	}
	defer connection.Close()
	defer context.AfterFunc(ctx, func() { connection.Close() })()
	const length = 4_000_000
	if _, err := fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", webhook.DeploymentPath, length); err != nil {
		return err
	}
	if _, err := connection.Write(bytes.Repeat([]byte(" "), length/2)); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, connection)
	return err
}

// manyStreams sends 100 half bodies over one connection.
func manyStreams(ctx context.Context, from *attacker, target Target) error {
	var streams sync.WaitGroup
	for range 100 {
		streams.Go(func() {
			half, end := io.Pipe()
			defer half.Close()
			go func() {
				_, _ = end.Write(bytes.Repeat([]byte(" "), 2_000_000))
			}()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+target.Admission+webhook.DeploymentPath, half)
			if err != nil {
				return
			}
			request.Header.Set("Content-Type", "application/json")
			request.ContentLength = 4_000_000
			answer, err := from.http.RoundTrip(request)
			if err == nil {
				_ = answer.Body.Close()
			}
		})
	}
	streams.Wait()
	return nil
}

// idle opens a connection, writes a few bytes, and waits until the server closes it.
func idle(secured bool, text string) func(context.Context, *attacker, Target) error {
	return func(ctx context.Context, from *attacker, target Target) error {
		var connection net.Conn
		var err error
		if secured {
			connection, err = from.secured(ctx, target.Admission)
		} else {
			connection, err = from.dialer.DialContext(ctx, "tcp", target.Admission)
		}
		if err != nil {
			return err
		}
		defer connection.Close()
		defer context.AfterFunc(ctx, func() { connection.Close() })()
		if _, err := io.WriteString(connection, text); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, connection)
		return io.EOF
	}
}

// otherPorts requests metrics without reading the answers, and sends half headers to the health port.
func otherPorts(ctx context.Context, from *attacker, target Target) error {
	var open []net.Conn
	defer func() {
		for _, each := range open {
			each.Close()
		}
	}()
	for address, text := range map[string]string{
		target.Metrics: strings.Repeat("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 100),
		target.Health:  "GET /readyz HTTP/1.1\r\nHost: a\r\nX: ",
	} {
		connection, err := from.dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		open = append(open, connection)
		if _, err := io.WriteString(connection, text); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, func() { open[1].Close() })()
	_, _ = io.Copy(io.Discard, open[1])
	return io.EOF
}
