// SPDX-License-Identifier: Apache-2.0

// Command kubectl-istiod_agent is the kubectl plugin: kubectl istiod-agent.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/istiod-agent/istiod-agent/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := cli.NewCommand().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	if said := err.Error(); said != "" {
		fmt.Fprintln(os.Stderr, "Error:", said)
	}
	code := 1
	if exit, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		code = exit.ExitCode()
	}
	os.Exit(code)
}
