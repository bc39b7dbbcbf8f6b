// SPDX-License-Identifier: Apache-2.0

package proxyless

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	xdscredentials "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/istiod-agent/istiod-agent/internal/traffic"
)

// Client calls a service of the mesh by its name.
type Client struct{ connection *grpc.ClientConn }

// NewClient returns a client of a service, HOST:PORT in the mesh. It connects at the first call. Close must be called.
func NewClient(service string) (*Client, error) {
	transport, err := xdscredentials.NewClientCredentials(xdscredentials.ClientOptions{FallbackCreds: refusePlaintext{}})
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient("xds:///"+service, grpc.WithTransportCredentials(transport), grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	return &Client{connection}, nil
}

// Call does one call and returns the name of the server that answered. It is not retried.
func (c *Client) Call(ctx context.Context) (server string, err error) {
	var header metadata.MD
	if _, err := grpc_health_v1.NewHealthClient(c.connection).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Header(&header)); err != nil {
		return "", err
	}
	names := header.Get(traffic.Header)
	if len(names) != 1 {
		return "", errors.New("the response does not name the server")
	}
	return names[0], nil
}

// Connect begins to connect, as the first call does.
func (c *Client) Connect() { c.connection.Connect() }

// Close closes the client's connections.
func (c *Client) Close() error { return c.connection.Close() }

// Reach calls a service until a server answers, one side refuses the other's root, or ctx ends: endpoints and configuration
// spread over the clusters only after a while. name is that of the server which must answer.
func Reach(ctx context.Context, name, service string) traffic.Result {
	return reach(ctx, name, func(ctx context.Context) (string, error) { return callOnce(ctx, service) })
}

func reach(ctx context.Context, name string, call func(context.Context) (server string, err error)) traffic.Result {
	result := traffic.Result{Target: name}
	for {
		server, err := call(ctx)
		switch {
		case err == nil && server == name:
			return traffic.Result{Target: name, Outcome: traffic.Calls}
		case err == nil: // in clusters with the same addresses, another server has the endpoint's, and the same identity
			return traffic.Result{Target: name, Outcome: traffic.Another, Detail: fmt.Sprintf("server %q answered", server)}
		}
		if ctx.Err() == nil || result.Outcome == "" { // the end of ctx hides the reason
			result.Outcome, result.Detail = classify(err), status.Convert(err).Message()
		}
		if result.Outcome == traffic.OtherRoot {
			return result
		}
		select {
		case <-ctx.Done():
			return result
		case <-time.After(pollInterval):
		}
	}
}

// attempt limits a call. grpc-go reports a resource that istiod does not send after 15 seconds.
const attempt = 20 * time.Second

func callOnce(ctx context.Context, service string) (server string, err error) {
	client, err := NewClient(service)
	if err != nil {
		return "", err
	}
	defer func() { _ = client.Close() }()
	limited, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if server, err = client.Call(limited); err != nil {
		return "", fmt.Errorf("calling %s: %w", service, err)
	}
	return server, nil
}

// classify reads the text of an error: gRPC passes on neither the type of a TLS error nor that of an xDS error. The texts are of
// Go's crypto/x509 and crypto/tls, and of grpc-go's internal/xds.
func classify(err error) traffic.Outcome {
	text := status.Convert(err).Message()
	contains := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
		return false
	}
	switch {
	case contains("certificate signed by unknown authority", "unknown certificate authority"):
		return traffic.OtherRoot
	case contains(errPlaintext.Error()):
		return traffic.Plaintext
	case contains("not found", "has been removed", "does not exist", "no targets to pick from", "zero addresses", "no healthy", "all priorities are removed"):
		return traffic.Unknown
	case contains("connection refused", "i/o timeout", "no route to host", "network is unreachable", "while dialing"), status.Code(err) == codes.DeadlineExceeded:
		return traffic.Unreachable
	default:
		return traffic.Failed
	}
}
