// SPDX-License-Identifier: Apache-2.0

package proxyless

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	xdscredentials "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/xds"

	"github.com/istiod-agent/istiod-agent/internal/traffic"
)

// Serve answers calls at a listener as istiod configures it, until ctx ends, and then lets running calls finish. name goes into
// the header of each response. ready, an HTTP listener, answers 200 once istiod has sent the configuration.
func Serve(ctx context.Context, listener, ready net.Listener, name string) error {
	transport, err := xdscredentials.NewServerCredentials(xdscredentials.ServerOptions{FallbackCreds: refusePlaintext{}})
	if err != nil {
		return err
	}
	var serving atomic.Bool
	server, err := xds.NewGRPCServer(grpc.Creds(transport), xds.ServingModeCallback(func(_ net.Addr, mode xds.ServingModeChangeArgs) {
		serving.Store(mode.Mode == connectivity.ServingModeServing)
		slog.Info("istiod has configured the server", "mode", mode.Mode.String(), "error", mode.Err)
	}))
	if err != nil {
		return fmt.Errorf("starting an xDS server: %w", err)
	}
	grpc_health_v1.RegisterHealthServer(server, answer{name: name})
	probe := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !serving.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	go func() { _ = probe.Serve(ready) }()
	defer func() { _ = probe.Close() }()
	stop := context.AfterFunc(ctx, server.GracefulStop)
	defer stop()
	return server.Serve(listener)
}

// answer answers each call. gRPC's health service spares a protocol of our own.
type answer struct {
	grpc_health_v1.UnimplementedHealthServer
	name string
}

func (a answer) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if err := grpc.SetHeader(ctx, metadata.Pairs(traffic.Header, a.name)); err != nil {
		return nil, err
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}
