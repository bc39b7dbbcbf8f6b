// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/webhook/servingcert"
)

// Ready returns a health check that passes when a TLS handshake with this server completes, its certificate is valid and has
// the name that the API server uses, and the source expects clients to trust it. It logs each new cause of a failure, since
// the probe's response does not contain it. probe is the check's client certificate, for a port that requires one.
func Ready(server v1alpha1.Server, probe *tls.Certificate, source servingcert.Source, log logr.Logger) func(*http.Request) error {
	check := handshake(server, probe, source)
	var mu sync.Mutex
	reported, wasReady := "", false
	return func(request *http.Request) error {
		err := check(request)
		cause := ""
		if err != nil {
			cause = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		if cause != reported {
			switch {
			case err == nil:
				log.Info("Ready")
			case wasReady:
				log.Error(err, "Not ready")
			default: // a new CA takes seconds to reach the caBundle
				log.Info("Not ready yet", "err", cause)
			}
		}
		reported, wasReady = cause, wasReady || err == nil
		return err
	}
}

func handshake(server v1alpha1.Server, probe *tls.Certificate, source servingcert.Source) func(*http.Request) error {
	host := server.BindAddress
	if host == "" {
		host = "localhost"
	}
	address := net.JoinHostPort(host, strconv.Itoa(int(server.Port)))
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 5 * time.Second},
		Config: &tls.Config{
			ServerName: server.ServingCertificate.DNSNames[0],
			MinVersion: tls.VersionTLS12,
			// The chain is the caBundle's to judge, which the source knows;
			// name and time are checked below.
			InsecureSkipVerify: true, //nolint:gosec // see above
			VerifyConnection:   func(state tls.ConnectionState) error { return checkCertificate(state, time.Now()) },
		},
	}
	if probe != nil {
		dialer.Config.Certificates = []tls.Certificate{*probe}
	}
	return func(request *http.Request) error {
		ctx, cancel := context.WithTimeout(request.Context(), 10*time.Second)
		defer cancel()
		connection, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("the webhook's own TLS port %s: %w", address, err)
		}
		if err := connection.Close(); err != nil {
			return fmt.Errorf("closing the connection to %s: %w", address, err)
		}
		return source.Ready()
	}
}

func checkCertificate(state tls.ConnectionState, now time.Time) error {
	leaf := state.PeerCertificates[0]
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("the serving certificate is not valid before %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the serving certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return leaf.VerifyHostname(state.ServerName)
}
