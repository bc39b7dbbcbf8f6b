// SPDX-License-Identifier: Apache-2.0

package workflows_test

import (
	"os/exec"
	"regexp"
	"slices"
	"testing"
)

// environment are variables that a person may set, and that the Makefile asks for while make reads it.
var environment = []string{"ENVTEST_INSTALLED_ONLY", "GOFLAGS"}

// A rule does not use a variable that is defined further down: make expands the names of targets and prerequisites as it reads
// them, so that the rule would build nothing.
func TestMakefileDefinesBeforeUse(t *testing.T) {
	output, err := exec.CommandContext(t.Context(), "make", "-C", "../..", "--no-print-directory", "--dry-run", "--warn-undefined-variables", "help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, warning := range regexp.MustCompile(`(?m)^(\S+): warning: undefined variable '(.*)'`).FindAllStringSubmatch(string(output), -1) {
		if !slices.Contains(environment, warning[2]) {
			t.Errorf("%s uses %s, which is not defined there yet", warning[1], warning[2])
		}
	}
}
