// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/internal/probe"
	"github.com/istiod-agent/istiod-agent/traffic/reach"
)

// defaultReport is where the kubelet reads a container's termination message.
const defaultReport = "/dev/termination-log"

func listenCommand() *cobra.Command {
	var address, answer string
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Answer TCP connections with a text until a signal ends the program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			listener, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", address)
			if err != nil {
				return fmt.Errorf("--address: %w", err)
			}
			return reach.Listen(cmd.Context(), listener, answer)
		},
	}
	cmd.Flags().StringVar(&address, "address", ":8080", "`HOST:PORT` to listen at")
	cmd.Flags().StringVar(&answer, "answer", "", "`text` to send")
	return cmd
}

func probeCommand() *cobra.Command {
	var texts []string
	var report string
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Connect to each endpoint and write the outcomes to a file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(texts) > probe.MaxEndpoints {
				return fmt.Errorf("--endpoint: expected at most %d, got %d", probe.MaxEndpoints, len(texts))
			}
			endpoints := make([]probe.Endpoint, len(texts))
			for i, text := range texts {
				if err := json.Unmarshal([]byte(text), &endpoints[i]); err != nil {
					return errors.New("--endpoint: expected the JSON of an endpoint")
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			content, err := probe.Encode(reach.Prober{Barred: probe.IsBarred}.All(ctx, endpoints))
			if err != nil {
				return err
			}
			return os.WriteFile(report, content, 0o600)
		},
	}
	cmd.Flags().StringArrayVar(&texts, "endpoint", nil, "`JSON` of an API server or a TCP port; may be repeated")
	cmd.Flags().StringVar(&report, "report", defaultReport, "`file` for the outcomes")
	cmd.Flags().DurationVar(&limit, "limit", 10*time.Second, "time for all connections")
	return cmd
}
