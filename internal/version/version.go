// SPDX-License-Identifier: Apache-2.0

// Package version identifies the build of the running program.
package version

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// Version is the release that this program was built from, as "v0.1.0".
// The Makefile sets it at link time; a plain go build or go install leaves the default.
var Version = "v0.0.0-dev"

// Build is the version of a program.
type Build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Current describes the running program.
func Current() Build {
	return Build{
		Version:  Version,
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// String is the one line for people: "v0.1.0 go1.26.8 linux/amd64".
func (b Build) String() string {
	return fmt.Sprintf("%s %s %s", b.Version, b.Go, b.Platform)
}

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
