// SPDX-License-Identifier: Apache-2.0

// Package broken proves that the suite's checks can fail: it breaks a part of the product, runs the guide, and expects that
// part's check to fail.
package broken

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
)

// Names of the suite's checks for go test.
const (
	injected = "TestGuide/the_guide/istiod_comes_up_with_the_agent,_and_nobody_has_patched_it"
	lastStep = "TestGuide/the_guide/the_last_step:_the_diff_is_empty"
)

func TestChecksCanFail(t *testing.T) {
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		arguments []string
		red       string
	}{
		"the agent's publication": {[]string{"-agent-image", withoutPublication(t)}, lastStep},
		"the root":                {[]string{"-broken", "root"}, lastStep},
		"the webhook":             {[]string{"-broken", "webhook"}, injected},
	} {
		t.Run(name, func(t *testing.T) {
			arguments := []string{"test", "-count=1", "-v", "-run", "^TestGuide$", "./suite", "-args", "-number", "1"}
			command := exec.CommandContext(t.Context(), "go", append(arguments, test.arguments...)...)
			command.Dir = filepath.Join(root, "e2e")
			output, err := command.CombinedOutput()
			if err == nil {
				t.Fatalf("the suite is green:\n%s", output)
			}
			if !regexp.MustCompile(`--- FAIL: ` + regexp.QuoteMeta(test.red) + ` `).Match(output) {
				t.Errorf("%q is not red:\n%s", test.red, output)
			}
		})
	}
}

// withoutPublication is an agent that reports a published CA without publishing it.
func withoutPublication(t *testing.T) string {
	t.Helper()
	const publish = "func (d *Directory) Publish(set *Set, note []byte) error {\n"
	archive, err := alteredAgent(t.Context(), t.TempDir(), "0.1.0", "agent/cacerts/directory.go", publish, publish+"\tif set != nil {\n\t\treturn nil\n\t}\n")
	if err != nil {
		t.Fatal(err)
	}
	return archive
}
