// SPDX-License-Identifier: Apache-2.0

// Package serve runs every HTTP listener of this project's programs within bounds that no client can exceed: time for a
// handshake, a header, a body and a response; connections and their HTTP/2 streams; bytes of headers; and, with Budget, the
// memory of all requests. At a bound, the client that uses most gives way, so that none can lock out the others.
package serve

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// The bounds of each connection. A client near the server, such as an API server, a kubelet or a Prometheus, needs a
// thousandth of these times.
const (
	// headerTimeout also bounds a TLS handshake (net/http, Server.tlsHandshakeTimeout).
	headerTimeout = 5 * time.Second
	// bodyTimeout bounds a request with its header: the API server waits no longer for an admission, by default.
	bodyTimeout = 5 * time.Second
	// answerTimeout bounds the handler and its answer: the API server waits at most 30 seconds.
	answerTimeout = 30 * time.Second
	// idleTimeout is longer than the period of probes and scrapes, and as long as Go's clients keep a connection.
	idleTimeout = 90 * time.Second
	// pingInterval and pingTimeout find HTTP/2 connections whose other end is gone.
	pingInterval, pingTimeout = 30 * time.Second, 10 * time.Second

	maxHeaderBytes = 8 << 10
	// maxStreams is per connection: a Go client opens another one for more.
	maxStreams = 8
	// streamWindow is the bytes of a body that are buffered for its handler: HTTP/2's initial window, since a client may use that
	// before it reads another (RFC 9113, 6.9.2). A connection has one for each stream, so that the bodies that wait for their part of
	// a Budget never keep the others from arriving. maxFrame is the largest HTTP/2 frame.
	streamWindow, maxFrame = 64 << 10, 16 << 10
)

// Server is one HTTP listener.
type Server struct {
	Handler http.Handler
	// TLS makes it an HTTPS server, which also serves HTTP/2.
	TLS *tls.Config
	// Connections is the most that are open at a time.
	Connections int
	// Log gets what net/http reports, such as failed handshakes: at most a line every ten seconds, of bounded length.
	Log logr.Logger
	// Drain is how long Serve waits for requests in flight when its context ends.
	Drain time.Duration
}

// Serve answers on the listener until the context ends, and then until all requests in flight are answered or Drain is over.
// It closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	bounds := newConnections(listener, s.Connections)
	server := &http.Server{
		Handler:           s.Handler,
		TLSConfig:         s.TLS,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         bounds.state,
		ErrorLog:          log.New(&errorLog{log: s.Log, bucket: flowcontrol.NewTokenBucketRateLimiter(0.1, 10)}, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxDecoderHeaderTableSize:     4 << 10,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerConnection: maxStreams * streamWindow,
			MaxReceiveBufferPerStream:     streamWindow,
			SendPingTimeout:               pingInterval,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              pingTimeout,
		},
	}
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Drain)
		defer cancel()
		if server.Shutdown(draining) != nil {
			_ = server.Close()
		}
	})
	var err error
	if s.TLS != nil {
		err = server.ServeTLS(bounds, "", "")
	} else {
		err = server.Serve(bounds)
	}
	if stop() { // the context is not done: the listener failed
		_ = server.Close()
		return fmt.Errorf("serving on %s: %w", listener.Addr(), err)
	}
	<-drained
	return nil
}

// errorLog passes on what net/http logs. Each line may be one that a stranger caused, by a handshake that fails.
type errorLog struct {
	log    logr.Logger
	bucket flowcontrol.PassiveRateLimiter
}

func (l *errorLog) Write(line []byte) (int, error) {
	if l.bucket.TryAccept() {
		text := string(line[:min(len(line), bounded.MaxMessage+1)]) // a panic's stack may be long
		l.log.Info("HTTP server", "err", bounded.Message(text))
	}
	return len(line), nil
}
