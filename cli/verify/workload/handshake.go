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

// Handshake does mutual TLS between two workloads, each of which trusts the roots of its own istiod.
func Handshake(ctx context.Context, client, server *Workload) error {
	const limit = 10 * time.Second
	clientEnd, serverEnd, err := pair(ctx)
	if err != nil {
		return err
	}
	defer func() { _, _ = clientEnd.Close(), serverEnd.Close() }()
	deadline := time.Now().Add(limit)
	_, _ = clientEnd.SetDeadline(deadline), serverEnd.SetDeadline(deadline)
	served := make(chan error, 1)
	go func() {
		err := tls.Server(serverEnd, &tls.Config{
			Certificates: []tls.Certificate{server.certificate}, MinVersion: tls.VersionTLS12,
			ClientAuth: tls.RequireAnyClientCert, VerifyConnection: server.verify,
		}).HandshakeContext(ctx)
		if err != nil {
			_ = serverEnd.Close()
		}
		served <- err
	}()
	err = tls.Client(clientEnd, &tls.Config{
		Certificates: []tls.Certificate{client.certificate}, MinVersion: tls.VersionTLS12,
		InsecureSkipVerify: true, VerifyConnection: client.verify, //nolint:gosec // verify checks the chain; a SPIFFE ID is no host name
	}).HandshakeContext(ctx)
	if err != nil {
		_ = clientEnd.Close()
	}
	return refusal(err, <-served)
}

// pair returns the two ends of a connection on loopback. On a net.Pipe, sending an alert would block until the peer reads it.
func pair(ctx context.Context) (clientEnd, serverEnd net.Conn, err error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = listener.Close() }()
	if clientEnd, err = new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String()); err != nil {
		return nil, nil, err
	}
	if serverEnd, err = listener.Accept(); err != nil {
		return nil, nil, errors.Join(err, clientEnd.Close())
	}
	return clientEnd, serverEnd, nil
}

// refusal returns the error of the side that refused; the other side has a remote error, or a closed connection.
func refusal(client, server error) error {
	fromPeer := func(err error) bool {
		remote, ok := errors.AsType[*net.OpError](err)
		return ok && remote.Op == "remote error" || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	switch {
	case client == nil && server == nil:
		return nil
	case client != nil && (server == nil || !fromPeer(client)):
		return fmt.Errorf("the client refuses the server: %w", client)
	default:
		return fmt.Errorf("the server refuses the client: %w", server)
	}
}

// verify requires a chain to a trusted root, and an Istio identity (SPIFFE X.509-SVID, section 5).
func (w *Workload) verify(state tls.ConnectionState) error {
	peer, intermediates := state.PeerCertificates[0], x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	if len(peer.URIs) != 1 || peer.URIs[0].Scheme != "spiffe" {
		return errors.New("the certificate holds no SPIFFE ID")
	}
	_, err := peer.Verify(x509.VerifyOptions{
		Roots: w.roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return err
}
