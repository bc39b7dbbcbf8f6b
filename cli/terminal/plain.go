// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Plain makes visible what a terminal acts on, reorders or hides: control characters (C0 and C1), bidirectional and
// zero-width characters, and bytes that are no UTF-8. Each becomes an escape such as \u001b, which JSON reads as the same
// character. Line breaks, tabs and printable characters of any script stay.
func Plain(text string) string { return plain(text, `\`) }

// PlainJSON does the same within JSON, such that the strings hold the escapes themselves: for what is made of the JSON,
// where such an escape would mean nothing or be an error.
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

// hidden characters are not shown as they are. Unicode's properties are those of characters without a width of their own
// (https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point).
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

// OneLine makes a text one line, without the punctuation that ends a sentence.
func OneLine(text string) string { return strings.TrimRight(Line(text), ".;") }
