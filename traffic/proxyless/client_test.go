// SPDX-License-Identifier: Apache-2.0

package proxyless

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/istiod-agent/istiod-agent/internal/traffic"
)

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
