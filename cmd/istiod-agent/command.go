// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/internal/version"
)

// errNotYet ends both of the agent's commands until it can talk to Vault. Failing is the point:
// an istiod that started without its files would make a root of its own and split the mesh's trust.
var errNotYet = errors.New("this build cannot obtain certificates yet, and by design istiod will not start without them")

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "istiod-agent",
		Short: "Gives istiod an intermediate CA that comes from Vault and lives only in memory",
		// The error is printed once, by run; the usage text would bury it in a pod's log.
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(
		notYet("init-container", "Get the first certificates before istiod starts, then exit"),
		notYet("sidecar", "Keep the certificates fresh for as long as istiod runs"),
		version.Command(),
	)
	return cmd
}

func notYet(use, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short + " (not yet: this build only says so and fails)",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errNotYet },
	}
}
