// SPDX-License-Identifier: Apache-2.0

// Command inject is `kubectl istiod-agent inject` alone, for the first step of `make demo`: it links no client of the
// Kubernetes API, and so takes a quarter of the plugin's time to compile.
package main

import (
	"os"

	"github.com/istiod-agent/istiod-agent/cli/manifests"
)

func main() {
	if manifests.InjectCommand().Execute() != nil { // it has printed the error
		os.Exit(1)
	}
}
