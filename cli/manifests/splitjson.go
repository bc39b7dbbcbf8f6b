// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// byteOrderMark in UTF-8, which some editors write first.
const byteOrderMark = "\ufeff"

// splitJSON splits the text between two separator lines. Text that begins with
// `{` or `[` is JSON: each value becomes a document, with or without a line
// break between two values. Other text is one YAML document, and so is text
// whose first value is not JSON: it may be a flow mapping.
func splitJSON(text []byte) []document {
	at := 0
	if bytes.HasPrefix(text, []byte(byteOrderMark)) {
		at = len(byteOrderMark)
	}
	if isSeparator(firstLine(text[at:])) {
		at += len("---")
	}
	at = skipBlank(text, at)
	if at == len(text) || !opensJSON(text[at]) {
		return []document{{text: text}}
	}
	var documents []document
	start := 0
	for at < len(text) {
		size, err := valueSize(text[at:])
		if err != nil {
			return append(documents, document{text: text[start:], notJSON: err, followsJSON: len(documents) > 0})
		}
		end := at + size
		next := len(text) - len(bytes.TrimLeft(text[end:], " \t\r\n"))
		at = skipBlank(text, next)
		if at == len(text) {
			next = at // comments at the end belong to the last value
		}
		documents = append(documents, document{text: text[start:next], value: text[end-size : end], followsJSON: len(documents) > 0})
		start = next
	}
	return documents
}

func opensJSON(first byte) bool { return first == '{' || first == '[' }

// skipBlank returns the offset of the first byte at or after the given offset
// that is neither white space nor part of a comment or a document end marker.
// YAML allows both around JSON; Helm writes a comment before each template.
func skipBlank(text []byte, at int) int {
	for at < len(text) {
		switch {
		case strings.IndexByte(" \t\r\n", text[at]) >= 0:
			at++
		case text[at] == '#', text[at] == '.' && (at == 0 || text[at-1] == '\n') && isMarker(firstLine(text[at:]), "..."):
			at += len(firstLine(text[at:]))
		default:
			return at
		}
	}
	return at
}

// valueSize returns the number of bytes of the JSON object or array with which
// the text begins.
func valueSize(text []byte) (int, error) {
	if !opensJSON(text[0]) {
		first, _ := utf8.DecodeRune(text)
		return 0, fmt.Errorf("expected { or [, got %q", first)
	}
	var value json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(text))
	err := decoder.Decode(&value)
	size := int(decoder.InputOffset())
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		line := 1 + bytes.Count(text[:min(int(syntax.Offset), len(text))], []byte("\n"))
		return 0, fmt.Errorf("line %d of the value: %w", line, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, errors.New("the text ends within a value")
	case err != nil:
		return 0, err
	case !utf8.Valid(text[:size]):
		return 0, errors.New("the value is not UTF-8")
	}
	return size, nil
}
