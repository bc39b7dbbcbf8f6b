// SPDX-License-Identifier: Apache-2.0

// Package cli is `kubectl istiod-agent`: the tree of its commands, each of which is
// in a package below.
package cli

import (
	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli/checkup"
	"github.com/istiod-agent/istiod-agent/cli/manifests"
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
		Short: "Look after the agent that gives istiod its intermediate CA",
		Annotations: map[string]string{
			// How the plugin is called, in its help.
			cobra.CommandDisplayNameAnnotation: "kubectl istiod-agent",
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.AddCommand(manifests.InjectCommand(), manifests.UninjectCommand(), version.Command())
	cmd.AddCommand(vaultside.Command())
	cmd.AddCommand(checkup.Command(), status.Command(), verify.Command(), renew.Command(), rotate.Command())
	completes(cmd)
	return cmd
}
