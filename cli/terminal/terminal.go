// SPDX-License-Identifier: Apache-2.0

// Package terminal knows how people see what a command writes.
package terminal

import (
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// Is says whether out is a terminal that can be written over.
func Is(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	return term.IsTerminal(int(file.Fd()))
}

// Coloured says whether out is a terminal of somebody who wants colours (no-color.org).
func Coloured(out io.Writer) bool { return Is(out) && os.Getenv("NO_COLOR") == "" }

// The colours.
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Purple = "35"
)

// In gives a text its colour.
func In(colour, text string) string { return "\x1b[" + colour + "m" + text + "\x1b[0m" }

// OneLine has a text fit in a line, without what ends a sentence.
func OneLine(text string) string {
	return strings.TrimRight(strings.Join(strings.Fields(Plain(text)), " "), ".;")
}

// Plain takes out of a text what a terminal would act on: who may write a status is not to move a reader's cursor.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}
