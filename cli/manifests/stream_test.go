// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"encoding/json"
	"testing"
)

func FuzzSplit(f *testing.F) {
	for _, text := range []string{
		"", "a: b", "a: b\n---\nc: d\n", "---\n---", "--- # x\r\na\r\n---\r\n", "----\n--- a\n---b\n", "a: |\n  ---\n", "\n\n---\n\n", "\ufeff---\n",
		`{"a": "\/"}{"b": 1}` + "\n{}\n---\n[]", "\ufeff# a\n{}\n...\n{} # b\n--- {}", "{a: b}\n---\n{} c: d", "{", "{}\n{\"a\": \"\xff\"}", "--- \n\n[", "{}\r\n{}\r\n---\r\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		documents := split("a file", text)
		var joined []byte
		for i, d := range documents {
			if len(d.text) == 0 {
				t.Errorf("document %d is empty", i+1)
			}
			if d.value != nil && !json.Valid(d.value) {
				t.Errorf("document %d is not JSON: %q", i+1, d.value)
			}
			if i > 0 && !d.followsJSON && !isSeparator(firstLine(d.text)) {
				t.Errorf("document %d starts without a separator: %q", i+1, d.text)
			}
			joined = append(joined, d.text...)
		}
		if !bytes.Equal(joined, text) {
			t.Errorf("joined it is %q, was %q", joined, text)
		}
		var written bytes.Buffer
		if err := printYAML(documents, &written); err != nil || !bytes.Equal(written.Bytes(), text) {
			t.Errorf("written it is %q, was %q (%v)", written.Bytes(), text, err)
		}
	})
}
