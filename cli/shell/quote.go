// SPDX-License-Identifier: Apache-2.0

// Package shell quotes text for the commands that the plugin prints.
package shell

import (
	"regexp"
	"strings"
)

var plain = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// Quote returns text as one word of a POSIX shell, in single quotes where it needs them.
func Quote(text string) string {
	if plain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
