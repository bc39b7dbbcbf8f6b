// SPDX-License-Identifier: Apache-2.0

// Package cli is `kubectl istiod-agent`: the tree of its commands. Each command has
// a package below.
package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli/checkup"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/join"
	"github.com/istiod-agent/istiod-agent/cli/manifests"
	"github.com/istiod-agent/istiod-agent/cli/policy"
	"github.com/istiod-agent/istiod-agent/cli/renew"
	"github.com/istiod-agent/istiod-agent/cli/rotate"
	"github.com/istiod-agent/istiod-agent/cli/status"
	"github.com/istiod-agent/istiod-agent/cli/vaultside"
	"github.com/istiod-agent/istiod-agent/cli/verify"
	"github.com/istiod-agent/istiod-agent/internal/version"
)

// NewCommand returns the plugin's command tree.
func NewCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubectl-istiod_agent",
		Short: "Check and operate istiod-agent, which gives istiod its intermediate CA",
		Annotations: map[string]string{
			// The name of the plugin in its help.
			cobra.CommandDisplayNameAnnotation: "kubectl istiod-agent",
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.AddCommand(manifests.InjectCommand(), manifests.UninjectCommand(), policy.Command(), version.Command())
	cmd.AddCommand(vaultside.Command())
	cmd.AddCommand(checkup.Command(), status.Command(), verify.Command(), renew.Command(), rotate.Command(), join.Command(), join.LeaveCommand())
	cmd.AddCommand(optionsCommand())
	setUsage(cmd)
	addCompletion(cmd)
	return cmd
}

// optionsCommand lists the connection flags, which would bury the others in each command's help.
func optionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "List the connection flags of the commands that read clusters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(cmd.OutOrStdout(), "These flags apply to every context that a command reads. --cluster, --server and --token require a single context.\n\n", clusters.ConnectionUsages())
			return err
		},
	}
}

// setUsage refers to options in place of the connection flags.
func setUsage(root *cobra.Command) {
	usage := root.UsageFunc()
	root.SetUsageFunc(func(cmd *cobra.Command) error {
		found, restore := clusters.HideConnection(cmd)
		defer restore()
		err := usage(cmd)
		if found {
			cmd.PrintErrln("\n" + `Use "kubectl istiod-agent options" for the connection flags, such as --as, --cluster, --token and --user.`)
		}
		return err
	})
}
