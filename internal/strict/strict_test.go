// SPDX-License-Identifier: Apache-2.0

package strict_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/strict"
)

type file struct {
	Name  string  `json:"name,omitempty"`
	Count uint32  `json:"count,omitempty"`
	Share float64 `json:"share,omitempty"`
	Bytes []byte  `json:"bytes,omitempty"`
	Parts []part  `json:"parts,omitempty"`
}

type part struct {
	Used bool              `json:"used,omitempty"`
	Tags map[string]string `json:"tags,omitempty"`
}

func TestIntoMismatches(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content string
		want    []string
	}{
		"all fits":        {"name: a\ncount: 1\nshare: 1\nbytes: YWI=\nparts: [{used: true, tags: {a: b}}]\n", nil},
		"nulls fit":       {"name:\ncount:\nparts: [null]\n", nil},
		"unknown fields":  {"nam: a\nNAME: b\n", []string{`NAME: Forbidden: there is no such field`, `nam: Forbidden: there is no such field`}},
		"deep in a list":  {"parts: [{}, {other: [1, 2]}]\n", []string{`parts[1].other: Forbidden: there is no such field`}},
		"wrong types":     {"name: 1\ncount: -1\nshare: a\nparts: {}\n", []string{`count: Invalid value: -1: expected a whole number, found -1`, `name: Invalid value: 1: expected a string, found a number`, `parts: Invalid value: {}: expected a list, found a mapping`, `share: Invalid value: "a": expected a number, found a string`}},
		"several in one":  {"parts: [{used: 1}, {tags: {a: 1, b: c}}]\n", []string{`parts[0].used: Invalid value: 1: expected true or false, found a number`, `parts[1].tags.a: Invalid value: 1: expected a string, found a number`}},
		"bytes in base64": {"bytes: a!\n", []string{`bytes: Invalid value: "a!": expected base64`}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree, err := strict.Parse([]byte(test.content), "v1", "File")
			if err != nil {
				t.Fatal(err)
			}
			_, mismatches := strict.Into[file](tree)
			var got []string
			for _, mismatch := range mismatches {
				got = append(got, mismatch.Error())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("want:\n%s\ngot:\n%s", strings.Join(test.want, "\n"), strings.Join(got, "\n"))
			}
		})
	}
}

func TestInto(t *testing.T) {
	t.Parallel()
	tree, err := strict.Parse([]byte("name: a\ncount: x\nparts: [{used: true, other: 1}]\n"), "v1", "File")
	if err != nil {
		t.Fatal(err)
	}
	got, mismatches := strict.Into[file](tree)
	if len(mismatches) != 2 || got.Name != "a" || len(got.Parts) != 1 || !got.Parts[0].Used {
		t.Errorf("got %+v and %v", got, mismatches)
	}
}

func TestStored(t *testing.T) {
	t.Parallel()
	object := map[string]any{
		"metadata": map[string]any{"fieldOfAnotherVersion": true},
		"name":     "a", "count": "x", "parts": []any{map[string]any{"used": true, "other": int64(1)}},
		"status": map[string]any{"anything": 1.5},
	}
	type stored struct {
		Metadata struct{} `json:"metadata"`
		file
	}
	got, unknown, mismatches := strict.Stored[stored](object)
	if got.Name != "a" || len(got.Parts) != 1 || !got.Parts[0].Used {
		t.Errorf("got %+v", got)
	}
	if len(unknown) != 1 || unknown[0].Field != "parts[0].other" {
		t.Errorf("want parts[0].other unknown, got %v", unknown)
	}
	if len(mismatches) != 1 || mismatches[0].Error() != "count: Invalid value: expected a whole number, found a string" {
		t.Errorf("want count not to fit, and its value not quoted, got %v", mismatches)
	}
	if object["count"] != "x" || object["status"] == nil {
		t.Errorf("what was read has changed: %v", object)
	}
}
