// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Handshake is mutual TLS between two workloads, each of which trusts what its own istiod has told it to.
func Handshake(ctx context.Context, client, server *Workload) error {
	const limit = 10 * time.Second
	here, there, err := pair(ctx)
	if err != nil {
		return err
	}
	defer func() { _, _ = here.Close(), there.Close() }()
	deadline := time.Now().Add(limit)
	_, _ = here.SetDeadline(deadline), there.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() {
		err := tls.Server(there, &tls.Config{
			Certificates: []tls.Certificate{server.certificate}, MinVersion: tls.VersionTLS12,
			ClientAuth: tls.RequireAnyClientCert, VerifyConnection: server.verify,
		}).HandshakeContext(ctx)
		if err != nil {
			_ = there.Close()
		}
		served <- err
	}()
	err = tls.Client(here, &tls.Config{
		Certificates: []tls.Certificate{client.certificate}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, VerifyConnection: client.verify, //nolint:gosec // verify checks the chain; a SPIFFE ID is no host name
	}).HandshakeContext(ctx)
	if err != nil {
		_ = here.Close()
	}
	return refusal(err, <-served)
}

// pair is a connection on loopback, by its two ends. In net.Pipe a side's refusal would wait until the other reads it.
func pair(ctx context.Context) (here, there net.Conn, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = listener.Close() }()
	if here, err = new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String()); err != nil {
		return nil, nil, err
	}
	if there, err = listener.Accept(); err != nil {
		return nil, nil, errors.Join(err, here.Close())
	}
	return here, there, nil
}

// refusal is the error of who refuses: the other hears of it as a remote error, or finds the connection closed.
func refusal(client, server error) error {
	heard := func(err error) bool {
		remote, is := errors.AsType[*net.OpError](err)
		return is && remote.Op == "remote error" || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	switch {
	case client == nil && server == nil:
		return nil
	case client != nil && (server == nil || !heard(client)):
		return fmt.Errorf("the client refuses the server: %w", client)
	default:
		return fmt.Errorf("the server refuses the client: %w", server)
	}
}

// verify wants a chain to a root that is trusted, and an Istio identity (SPIFFE X.509-SVID, section 5).
func (w *Workload) verify(state tls.ConnectionState) error {
	peer, between := state.PeerCertificates[0], x509.NewCertPool()
	for _, each := range state.PeerCertificates[1:] {
		between.AddCert(each)
	}
	if len(peer.URIs) != 1 || peer.URIs[0].Scheme != "spiffe" {
		return errors.New("the certificate holds no SPIFFE ID")
	}
	_, err := peer.Verify(x509.VerifyOptions{
		Roots: w.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return err
}
