// SPDX-License-Identifier: Apache-2.0

package version

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

// Command is the version subcommand that every program of this project has.
func Command() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, the Go version and the platform",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "":
				_, err := fmt.Fprintln(cmd.OutOrStdout(), Current())
				return err
			case "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(Current())
			default:
				return fmt.Errorf("--output %q: expected json", output)
			}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "output `format`: json (default: text)")
	return cmd
}
