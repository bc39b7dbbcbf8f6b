// SPDX-License-Identifier: Apache-2.0

// Package kubectl is kubectl, of its own Go module, for tests of commands as people write them.
package kubectl

import (
	"os"

	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// Main runs kubectl with the program's arguments, and ends the program.
func Main() {
	if err := cmd.NewDefaultKubectlCommand().Execute(); err != nil {
		util.CheckErr(err)
	}
	os.Exit(0)
}
