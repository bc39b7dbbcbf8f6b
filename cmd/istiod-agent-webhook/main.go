// SPDX-License-Identifier: Apache-2.0

// Command istiod-agent-webhook admits istiod's Deployments and injects the agent.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	smallStart()
	// The second signal ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := newCommand().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errLogged) {
			fmt.Fprintln(os.Stderr, "istiod-agent-webhook:", err)
		}
		os.Exit(1)
	}
}
