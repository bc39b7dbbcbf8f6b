// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"unicode/utf8"
)

// FuzzCursor walks any text: what encoding/json decodes, the cursor reads as
// the same values; on anything else it ends, without a panic.
func FuzzCursor(f *testing.F) {
	for _, text := range []string{
		`{}`, `[]`, `""`, `0`, `null`, ` { "a" : [ 1 , -2.5e+3 , true , { } ] , "b\"\\" : "\u00e9\\\"" } `,
		`{"a"`, `{"a":}`, `[1,`, `"\`, `"\\`, `{"a":1]`, `[[[[`, `{"":[]}`, `nul`, ``, `}`, `{"a" 1}`, `[1 2]`, `{a:1}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &cursor{text: text}
		got := walk(c)

		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		var want any
		if !utf8.Valid(text) || !json.Valid(text) || decoder.Decode(&want) != nil {
			return
		}
		if c.err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v (%v), want %#v", text, got, c.err, want)
		}
	})
}

// walk reads a value through every method of the cursor.
func walk(c *cursor) any {
	switch c.peek() {
	case '{':
		object := map[string]any{}
		c.object(func(key []byte) { object[string(key)] = walk(c) })
		return object
	case '[':
		list := []any{}
		c.array(func() { list = append(list, walk(c)) })
		return list
	case '"':
		return string(c.string())
	default:
		var value any
		decoder := json.NewDecoder(bytes.NewReader(c.skip()))
		decoder.UseNumber()
		_ = decoder.Decode(&value)
		return value
	}
}

func TestCursorSkip(t *testing.T) {
	t.Parallel()
	c := &cursor{text: []byte(`{"a": {"x": ["}", "]"]}, "b": [1, "\"", {"y": {}}], "c": "kept"}`)}
	kept := ""
	c.object(func(key []byte) {
		if string(key) == "c" {
			kept = string(c.string())
		}
	})
	if kept != "kept" || c.err != nil {
		t.Errorf("got %q, %v", kept, c.err)
	}
}
