// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/cert"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/istiod-agent/istiod-agent/webhook"
)

// serveAll serves the three handlers alike, each by a webhook server of
// controller-runtime's own over TLS and HTTP/2, and gives a client for each.
func serveAll(ctx context.Context) (_ map[string]*client, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "istiod-agent-bench-")
	if err != nil {
		return nil, nil, err
	}
	roots, err := certificate(dir)
	if err != nil {
		return nil, nil, err
	}
	clients := map[string]*client{}
	ctx, cancel := context.WithCancel(ctx)
	servers, ctx := errgroup.WithContext(ctx)
	stop = func() error {
		for _, c := range clients {
			c.http.CloseIdleConnections()
		}
		cancel()
		return errors.Join(servers.Wait(), os.RemoveAll(dir))
	}
	for _, name := range handlers {
		handler, err := handlerNamed(name)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		port, err := freePort()
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		server := ctrlwebhook.NewServer(ctrlwebhook.Options{Host: "127.0.0.1", Port: port, CertDir: dir})
		server.Register(webhook.DeploymentPath, handler)
		servers.Go(func() error { return server.Start(ctx) })
		clients[name] = newClient(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), roots)
		if err := started(ctx, server); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("serving %s: %w", name, err), stop())
		}
	}
	return clients, stop, nil
}

// started waits until a server answers TLS handshakes.
func started(ctx context.Context, server ctrlwebhook.Server) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		last = server.StartedChecker()(nil)
		return last == nil, nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// certificate writes a self-signed one for localhost.
func certificate(dir string) (*x509.CertPool, error) {
	crt, key, err := cert.GenerateSelfSignedCertKey("localhost", nil, nil)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(crt)
	return roots, errors.Join(
		os.WriteFile(filepath.Join(dir, "tls.crt"), crt, 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
