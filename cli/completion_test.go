// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/istiod-agent/istiod-agent/cli"
	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

const kubeconfig = `
apiVersion: v1
kind: Config
contexts: [{name: cluster-1, context: {}}, {name: cluster-2, context: {}}]
`

// complete gives what completes the last word, and cobra's directive: 0 for the names of files, 4 for nothing else.
func complete(t *testing.T, words ...string) (found []string, directive string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(clitest.Run(t, "", append([]string{"__complete"}, words...)...).Succeeds(t)), "\n")
	for _, line := range lines[:len(lines)-1] {
		word, _, _ := strings.Cut(line, "\t") // the rest describes it
		found = append(found, word)
	}
	return found, lines[len(lines)-1]
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	file := clitest.Write(t, filepath.Join(t.TempDir(), "config"), kubeconfig)
	for _, test := range []struct {
		words     []string
		want      []string // among what is found
		directive string
	}{
		{[]string{""}, []string{"check", "completion", "inject", "renew", "rotate-root", "status", "uninject", "vault", "verify", "version"}, ":4"},
		{[]string{"status", "--con"}, []string{"--context"}, ":4"},
		{[]string{"status", "-o", ""}, []string{"wide", "json", "yaml"}, ":4"},
		{[]string{"verify", "-n", ""}, nil, ":4"},
		{[]string{"verify", "--root", ""}, nil, ":0"},
		{[]string{"status", "--as"}, []string{"--as", "--as-group", "--as-uid"}, ":4"},
		{[]string{"status", "--as", ""}, nil, ":4"},
		{[]string{"status", "--client-key", ""}, nil, ":0"},
		{[]string{"inject", "-f", ""}, nil, ":0"},
		{[]string{"renew", ""}, nil, ":4"},
		{[]string{"rotate-root", ""}, []string{"trust-both", "sign-with-new", "drop-old", "none"}, ":4"},
	} {
		found, directive := complete(t, test.words...)
		for _, want := range test.want {
			if !slices.Contains(found, want) {
				t.Errorf("%q: %s is not among %q", test.words, want, found)
			}
		}
		if directive != test.directive || test.want == nil && len(found) > 0 {
			t.Errorf("%q: found %q, %s", test.words, found, directive)
		}
	}
	for _, command := range []string{"check", "status", "verify", "renew", "rotate-root", "vault"} {
		if found, directive := complete(t, command, "--kubeconfig", file, "--context", ""); !slices.Equal(found, []string{"cluster-1", "cluster-2"}) || directive != ":4" {
			t.Errorf("%s: found %q, %s", command, found, directive)
		}
	}
}

// kubectl runs a program of this name with the words, and takes from it what cobra answers. Here a script stands in for
// kubectl, as which the program then calls it.
func TestCompletionForKubectl(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clitest.Write(t, filepath.Join(dir, "kubectl"), "#!/bin/sh\necho \"$@\"\n")
	program := clitest.Write(t, filepath.Join(dir, "kubectl_complete-istiod_agent"), clitest.Run(t, "", "completion", "kubectl").Succeeds(t))
	for _, each := range []string{"kubectl", "kubectl_complete-istiod_agent"} {
		if err := os.Chmod(filepath.Join(dir, each), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), program, "status", "--context", "")
	command.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	output, err := command.CombinedOutput()
	if err != nil || string(output) != "istiod-agent __complete status --context \n" {
		t.Errorf("got %q, %v", output, err)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if script := clitest.Run(t, "", "completion", shell).Succeeds(t); !strings.Contains(script, "kubectl-istiod_agent") {
			t.Errorf("%s: the script is not for this program", shell)
		}
	}
}

// Every command says by which codes it ends, and shows how it is used; every flag says what it is for.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, command := range cli.NewCommand().Commands() {
		if slices.Contains([]string{"help", "completion", "options", "version"}, command.Name()) {
			continue
		}
		if !strings.Contains(command.Long, "\nExit codes: ") || command.Example == "" {
			t.Errorf("%s: its help has no exit codes, or no example", command.Name())
		}
		checkFlags(t, command)
	}
}

func checkFlags(t *testing.T, command *cobra.Command) {
	t.Helper()
	command.Flags().VisitAll(func(flag *pflag.Flag) {
		if flag.Usage == "" {
			t.Errorf("%s --%s: its help is empty", command.Name(), flag.Name)
		}
	})
	for line := range strings.SplitSeq(command.Long, "\n") {
		if len([]rune(line)) > 88 {
			t.Errorf("%s: its help has a line of %d characters: %s", command.Name(), len([]rune(line)), line)
		}
	}
}
