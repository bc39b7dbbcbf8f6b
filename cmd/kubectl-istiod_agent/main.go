// SPDX-License-Identifier: Apache-2.0

// Command kubectl-istiod_agent is the kubectl plugin: kubectl istiod-agent.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/istiod-agent/istiod-agent/cli"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

func main() {
	// The libraries log to standard error what the commands print already, with unescaped text of servers.
	klog.SetLogger(logr.Discard())
	ctrllog.SetLogger(logr.Discard())
	log.SetOutput(terminal.NewWriter(os.Stderr))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
