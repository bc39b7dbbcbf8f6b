// SPDX-License-Identifier: Apache-2.0

package vaultdocs

import (
	"fmt"
	"regexp"
	"strings"
)

// inline matches a Vault command within a sentence.
var inline = regexp.MustCompile("`(vault [^`]+)`")

// Blocks returns the scripts of a page by name: a fenced block has the name of its section and its number there
// ("The login 2"), a command within a sentence is its own name.
func Blocks(page string) (map[string]string, error) {
	blocks, section, name := map[string]string{}, "", ""
	count, fenced := 0, false
	for line := range strings.Lines(page) {
		heading, isHeading := strings.CutPrefix(line, "#")
		switch {
		case strings.HasPrefix(line, "```"):
			if fenced = !fenced; fenced {
				count++
				name = fmt.Sprintf("%s %d", section, count)
			}
		case fenced:
			blocks[name] += line
		case isHeading:
			section, count = strings.Trim(heading, "# \n"), 0
		default:
			for _, match := range inline.FindAllStringSubmatch(line, -1) {
				blocks[match[1]] = match[1]
			}
		}
	}
	if fenced {
		return nil, fmt.Errorf("block %q is not closed", name)
	}
	return blocks, nil
}
