// SPDX-License-Identifier: Apache-2.0

package proxyless

import (
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/istiod-agent/istiod-agent/internal/traffic"
)

// A server of another cluster has the same identity, and with the same addresses it answers in place of the target.
func TestReach(t *testing.T) {
	t.Parallel()
	for server, want := range map[string]traffic.Outcome{"1": traffic.Calls, "0": traffic.Another, "": traffic.Another} {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		serving := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(serving, answer{name: server})
		go func() { _ = serving.Serve(listener) }()
		t.Cleanup(serving.Stop)
		connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		client := &Client{connection}
		t.Cleanup(func() { _ = client.Close() })
		if got := reach(t.Context(), "1", client.Call); got.Outcome != want || got.Target != "1" || (got.Detail == "") != (want == traffic.Calls) {
			t.Errorf("server %q: got %+v", server, got)
		}
	}
}

// The texts are those of real calls.
func TestClassify(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		code codes.Code
		text string
		want traffic.Outcome
	}{
		"the client refuses": {codes.Unavailable, `connection error: desc = "transport: authentication handshake failed: x509: certificate signed by unknown authority"`, traffic.OtherRoot},
		"the server refuses": {codes.Unavailable, `connection error: desc = "error reading server preface: remote error: tls: unknown certificate authority"`, traffic.OtherRoot},
		"no mutual TLS":      {codes.Unavailable, `connection error: desc = "transport: authentication handshake failed: ` + errPlaintext.Error() + `"`, traffic.Plaintext},
		"no such service":    {codes.Unavailable, `xds: resource "server-1.ns.svc.cluster.local:8080" of type "ListenerResource" has been removed`, traffic.Unknown},
		"no endpoint":        {codes.Unavailable, "no targets to pick from", traffic.Unknown},
		"nobody listens":     {codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:8080: connect: connection refused"`, traffic.Unreachable},
		"no route":           {codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.1:8080: connect: no route to host"`, traffic.Unreachable},
		"no answer":          {codes.DeadlineExceeded, "context deadline exceeded", traffic.Unreachable},
		"anything else":      {codes.Unimplemented, "unknown service", traffic.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := classify(status.Error(test.code, test.text)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
