// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli"
)

// undocumented need no section: cobra's own, and the lists of flags and versions.
var undocumented = []string{"help", "completion", "options", "version"}

// The page has a section for each command, with the exit codes of its help, word for word, and no flag that it has not.
func TestEveryCommandIsExplained(t *testing.T) {
	t.Parallel()
	sections := map[string]string{}
	for _, section := range strings.Split(read(t, "command-line.md").text, "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		sections[strings.Trim(title, "`")] = text
	}
	root := cli.NewCommand()
	for _, command := range root.Commands() {
		if slices.Contains(undocumented, command.Name()) {
			continue
		}
		section, found := sections[command.Name()]
		if !found {
			t.Errorf("command-line.md has no section `%s`", command.Name())
			continue
		}
		_, codes, _ := strings.Cut(command.Long, "Exit codes: ")
		if codes = words(codes); codes == "" || !strings.Contains(words(section), "Exit codes: "+codes) {
			t.Errorf("command-line.md, %s: the exit codes are not those of the help: %s", command.Name(), codes)
		}
		for _, flag := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(section, -1) {
			if command.Flags().Lookup(flag[1]) == nil {
				t.Errorf("command-line.md, %s: there is no flag --%s", command.Name(), flag[1])
			}
		}
	}
}

// Wherever a page shows how the plugin is called, the command is there, and knows the flags.
func TestEveryCallOfThePluginIsRight(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile("kubectl istiod-agent ([a-z-]+)((?: [^`|>#\n]*)?)")
	calls := 0
	for _, p := range append(pages(t), read(t, "../README.md")) {
		for _, match := range call.FindAllStringSubmatch(p.text, -1) {
			calls++
			command, _, err := cli.NewCommand().Find([]string{match[1]})
			if err != nil || command.Parent() == nil {
				t.Errorf("%s: there is no command %s", p.file, match[1])
				continue
			}
			checkCall(t, p.file, command, match[2])
		}
	}
	if calls < 10 {
		t.Errorf("only %d calls were found", calls)
	}
}

func checkCall(t *testing.T, page string, command *cobra.Command, rest string) {
	t.Helper()
	command.InitDefaultHelpFlag() // as Execute does
	for word := range strings.FieldsSeq(rest) {
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		name = strings.TrimRight(name, ",.;:)")
		switch {
		case strings.HasPrefix(word, "--") && name != "" && command.Flags().Lookup(name) == nil,
			strings.HasPrefix(word, "-") && !strings.HasPrefix(word, "--") && len(name) == 1 && command.Flags().ShorthandLookup(name) == nil:
			t.Errorf("%s: %s has no flag %s", page, command.Name(), word)
		}
	}
}

// No page puts a key or a token on a command line, which every user of the machine can read, but where it quotes the guide.
func TestNoSecretIsOnACommandLine(t *testing.T) {
	t.Parallel()
	substituted := regexp.MustCompile(`\$\([^)]*(?:key|token|jwt)[^)]*\)`)
	quoted := map[string]int{"vault.md": 1, "try-it.md": 2}
	for _, p := range append(pages(t), read(t, "../README.md")) {
		if found := substituted.FindAllString(p.text, -1); len(found) != quoted[p.file] {
			t.Errorf("%s: %q; use standard input or a file", p.file, found)
		}
	}
}

// words makes white space alike.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }
