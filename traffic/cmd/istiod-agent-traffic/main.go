// SPDX-License-Identifier: Apache-2.0

// Command istiod-agent-traffic is a server and a client of the mesh, for `kubectl istiod-agent verify --traffic`, and connects Pods
// of clusters for `kubectl istiod-agent join`.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
	"github.com/istiod-agent/istiod-agent/internal/version"
	"github.com/istiod-agent/istiod-agent/traffic/proxyless"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "istiod-agent-traffic: %s\n", bounded.Plain(err.Error()))
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "istiod-agent-traffic",
		Short:         "Serve and call as workloads of the mesh without a proxy",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.AddCommand(serverCommand(), clientCommand(), listenCommand(), probeCommand(), version.Command())
	return cmd
}

// addIdentity registers the flags of a workload's identity.
func addIdentity(cmd *cobra.Command, options *proxyless.Options) {
	set := cmd.Flags()
	set.StringVar(&options.Istiod, "istiod", "istiod.istio-system.svc:15012", "`HOST:PORT` of istiod's port 15012")
	set.StringVar(&options.ServerName, "istiod-name", "istiod.istio-system.svc", "`name` in istiod's certificate")
	set.StringVar(&options.TokenFile, "token-file", "/var/run/secrets/tokens/istio-token", "`file` with a token of the service account for the audience istio-ca")
	set.StringVar(&options.RootFile, "root-file", "/var/run/secrets/istio/root-cert.pem", "`file` with the roots that istiod has published")
	set.DurationVar(&options.Lifetime, "certificate-lifetime", 10*time.Minute, "lifetime of the certificates")
}

// identity obtains the certificate and keeps it renewed until ctx ends.
func identity(ctx context.Context, options proxyless.Options) error {
	if os.Getenv(contract.BootstrapVariable) == "" {
		return fmt.Errorf("%s is not set; expected gRPC's xDS bootstrap", contract.BootstrapVariable)
	}
	if options.Lifetime < time.Second {
		return errors.New("--certificate-lifetime: expected at least 1s")
	}
	obtained, err := proxyless.Obtain(ctx, options)
	if err != nil {
		return err
	}
	obtained.Register()
	go obtained.Keep(ctx)
	return nil
}

func serverCommand() *cobra.Command {
	var options proxyless.Options
	var address, ready, name string
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Answer calls by mutual TLS until a signal ends the program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
			if err != nil {
				return fmt.Errorf("--address: %w", err)
			}
			probes, err := new(net.ListenConfig).Listen(ctx, "tcp", ready)
			if err != nil {
				return fmt.Errorf("--ready-address: %w", err)
			}
			if err := identity(ctx, options); err != nil {
				return err
			}
			return proxyless.Serve(ctx, listener, probes, name)
		},
	}
	addIdentity(cmd, &options)
	cmd.Flags().StringVar(&address, "address", "0.0.0.0:8080", "`IP:PORT` to serve at")
	cmd.Flags().StringVar(&ready, "ready-address", ":8081", "`HOST:PORT` that answers HTTP requests with 200 once istiod has configured the server")
	cmd.Flags().StringVar(&name, "name", "", "`name` of the server in its responses")
	return cmd
}

func clientCommand() *cobra.Command {
	var options proxyless.Options
	var targets []string
	var report string
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "client",
		Short: "Call each target and write the outcomes to a file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			if err := identity(ctx, options); err != nil {
				return err
			}
			results := make([]contract.Result, len(targets))
			var pending sync.WaitGroup
			for i, target := range targets {
				name, service, found := strings.Cut(target, "=")
				if !found {
					return fmt.Errorf("--target %q: expected NAME=HOST:PORT", target)
				}
				pending.Go(func() { results[i] = proxyless.Reach(ctx, name, service) })
			}
			pending.Wait()
			text, err := contract.Encode(results)
			if err != nil {
				return err
			}
			return os.WriteFile(report, text, 0o600)
		},
	}
	addIdentity(cmd, &options)
	cmd.Flags().StringArrayVar(&targets, "target", nil, "`NAME=HOST:PORT` of a service in the mesh; may be repeated")
	cmd.Flags().StringVar(&report, "report", defaultReport, "`file` for the outcomes")
	cmd.Flags().DurationVar(&limit, "limit", 30*time.Second, "time for all calls")
	return cmd
}
