// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"strings"
	"testing"
)

// A folder of any name is data for the shell that a command is copied into, and sends nothing to the terminal.
func TestToTryQuotesFolders(t *testing.T) {
	for _, kubeconfig := range []string{"/tmp/a b/kubeconfig", "/tmp/$(echo x);`id`'\"/kubeconfig", "/tmp/a\necho x/kubeconfig", "/tmp/\x1b[2J/kubeconfig"} {
		commands, err := toTry(kubeconfig, "certificate")
		if err != nil {
			t.Fatal(err)
		}
		export := commands[1].line
		if strings.Contains(export, "\x1b") {
			t.Errorf("it prints %q", export)
		}
		if strings.Contains(kubeconfig, "\x1b") {
			continue // what is printed in its place leads nowhere
		}
		output, err := exec.CommandContext(t.Context(), "sh", "-c", export+`; printf %s "$KUBECONFIG"`).CombinedOutput()
		if err != nil || string(output) != kubeconfig {
			t.Errorf("%s: the shell has %q: %v", export, output, err)
		}
	}
}
