// SPDX-License-Identifier: Apache-2.0

// Command kubectl-istiod_agent is the kubectl plugin: kubectl istiod-agent.
package main

import (
	"fmt"
	"os"

	"github.com/istiod-agent/istiod-agent/cli"
)

func main() {
	if err := cli.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
