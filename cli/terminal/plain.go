// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Plain escapes characters that a terminal acts on, reorders or hides: control characters (C0 and C1), bidirectional and
// zero-width characters, and bytes that are not UTF-8. An escape such as \u001b is the same character in JSON. Line breaks,
// tabs and printable characters of any script stay.
func Plain(text string) string { return plain(text, `\`) }

// PlainJSON is Plain for JSON that becomes another format: the strings then contain the escapes themselves.
func PlainJSON(text string) string { return plain(text, `\\`) }

func plain(text, backslash string) string {
	if !strings.ContainsFunc(text, hidden) && utf8.ValidString(text) {
		return text
	}
	var out strings.Builder
	for at := 0; at < len(text); {
		r, size := utf8.DecodeRuneInString(text[at:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&out, `%sx%02x`, backslash, text[at])
		case r == '\r' && strings.HasPrefix(text[at+1:], "\n"), !hidden(r):
			out.WriteString(text[at : at+size])
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&out, `%su%04x`, backslash, unit)
			}
		}
		at += size
	}
	return out.String()
}

// hidden reports whether a character must be escaped. The Unicode properties are of characters without a width (https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point).
func hidden(r rune) bool {
	if r == '\n' || r == '\t' {
		return false
	}
	return !unicode.IsPrint(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Names joins names for a line of text; above the limit it counts the rest.
func Names(names []string, limit int) string {
	if rest := len(names) - limit; rest > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), rest)
	}
	return strings.Join(names, ", ")
}

// Line makes a text one line.
func Line(text string) string { return strings.Join(strings.Fields(text), " ") }

// OneLine makes a text one line, without punctuation at the end.
func OneLine(text string) string { return strings.TrimRight(Line(text), ".;") }
