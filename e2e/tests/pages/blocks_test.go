// SPDX-License-Identifier: Apache-2.0

package pages

import (
	"fmt"
	"regexp"
	"strings"
)

// block is a list of commands on a page: a fenced block that names no language.
type block struct {
	// name is the block's section, and its number among those of the section.
	name string
	text string
}

// blocks returns the blocks of a page in order, without those that show output alone: transcripts, which begin with a "$", and
// what begins like nothing that a shell runs.
func blocks(page string) (found []block, err error) {
	section, count := "", 0
	open, commands := false, false
	var text strings.Builder
	for line := range strings.Lines(page) {
		trimmed := strings.TrimSpace(line)
		heading, isHeading := strings.CutPrefix(line, "#")
		switch {
		case strings.HasPrefix(trimmed, "```") && !open:
			open, commands = true, trimmed == "```"
			text.Reset()
		case trimmed == "```":
			open = false
			if commands && program.MatchString(text.String()) {
				count++
				found = append(found, block{fmt.Sprintf("%s %d", section, count), text.String()})
			}
		case open:
			text.WriteString(line)
		case isHeading:
			section, count = strings.Trim(heading, "# \n"), 0
		}
	}
	if open {
		return nil, fmt.Errorf("section %q: a block is not closed", section)
	}
	return found, nil
}

// program matches the beginning of a script.
var program = regexp.MustCompile(`^\s*(?:[A-Z_0-9]+=\S+|(?:\./)?(?:bin/)?(?:cat|cd|cosign|cp|curl|digest=|export|for|gcloud|gh|git|go|helm|istioctl|jq|kind|kubectl|kubectl-istiod_agent|make|mkdir|openssl|sudo|tar|until|vault|while))\s`)

// commands splits a script into its commands. A command ends with its line, unless that ends with a backslash, or a document
// up to EOF follows it. A script with a loop is one command.
func commands(script string) (found []string) {
	if strings.Contains(script, "; do\n") {
		return []string{script}
	}
	var command strings.Builder
	document := false
	for line := range strings.Lines(script) {
		command.WriteString(line)
		document = document && strings.TrimSpace(line) != "EOF" || strings.Contains(line, "<<EOF")
		if document || strings.HasSuffix(strings.TrimRight(line, "\n"), `\`) {
			continue
		}
		if text := command.String(); strings.TrimSpace(text) != "" {
			found = append(found, text)
		}
		command.Reset()
	}
	return found
}

// plain is a command in one line, without a comment.
func plain(command string) string {
	command = regexp.MustCompile(`\\\n\s*`).ReplaceAllString(command, "")
	return strings.TrimSpace(regexp.MustCompile(`(?m)\s+#\s.*$`).ReplaceAllString(command, ""))
}
