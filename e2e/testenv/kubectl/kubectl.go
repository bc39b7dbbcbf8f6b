// SPDX-License-Identifier: Apache-2.0

// Package kubectl runs kubectl, from its Go module, in a test's process.
package kubectl

import (
	"os"

	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
)

// Main runs kubectl with the process's arguments and exits.
func Main() {
	if err := cmd.NewDefaultKubectlCommand().Execute(); err != nil {
		util.CheckErr(err)
	}
	os.Exit(0)
}
