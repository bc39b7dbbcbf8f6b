// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const commented = `# This stands by itself.

# How many.
# @schema {minimum: 1}
replicas: 2
# A group.
image:
  # Where it comes from,
  # in two lines.
  repository: example.com/it
  # Which one.
  # @default the newest | any
  tag: ""
# Taken as a whole.
resources: {requests: {cpu: 20m}}
# Left to others.
# @schema {type: [object, "null"]}
affinity: null
`

func TestSchemaFollowsFromTheComments(t *testing.T) {
	file := filepath.Join(t.TempDir(), "schema.json")
	if err := writeSchema(file, values(t, commented)); err != nil {
		t.Fatal(err)
	}
	want := `{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"type": "object", "additionalProperties": false, "required": ["replicas", "image"],
		"properties": {
			"enabled": {"type": "boolean", "description": "For a condition of a chart that has this one as a dependency."},
			"global": {"type": "object"},
			"replicas": {"type": "integer", "minimum": 1, "description": "How many."},
			"image": {
				"type": "object", "additionalProperties": false, "required": ["repository"], "description": "A group.",
				"properties": {
					"repository": {"type": "string", "description": "Where it comes from, in two lines."},
					"tag": {"type": "string", "description": "Which one."}
				}
			},
			"resources": {"type": "object", "description": "Taken as a whole."},
			"affinity": {"type": ["object", "null"], "description": "Left to others."}
		}
	}`
	if diff := cmp.Diff(decoded(t, want), decoded(t, read(t, file))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTableFollowsFromTheComments(t *testing.T) {
	file := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(file, []byte("before\n"+tableBegin+"stale\n"+tableEnd+"after\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeTable(file, values(t, commented)); err != nil {
		t.Fatal(err)
	}
	want := "before\n" + tableBegin + `
| Value | Default | Description |
| --- | --- | --- |
| ` + "`replicas` | `2`" + ` | How many. |
| ` + "`image.repository` | `\"example.com/it\"`" + ` | Where it comes from, in two lines. |
| ` + "`image.tag`" + ` | the newest \| any | Which one. |
| ` + "`resources` | `{\"requests\":{\"cpu\":\"20m\"}}`" + ` | Taken as a whole. |
| ` + "`affinity` | `null`" + ` | Left to others. |

` + tableEnd + "after\n"
	if diff := cmp.Diff(want, read(t, file)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestValuesWithoutAWordAreRefused(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"no comment":      {"a: 1", "line 1: a has no comment"},
		"none in a group": {"a:\n  b: 1", "line 2: a.b has no comment"},
		"misspelt":        {"# What.\n# @shema {}\na: 1", `"@shema {}" is neither`},
		"no mapping":      {"- 1", "expected a mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(test.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := readValues(file); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestATypeThatDoesNotFollowIsAskedFor(t *testing.T) {
	err := writeSchema(filepath.Join(t.TempDir(), "schema.json"), values(t, "# What.\na: null"))
	if err == nil || !strings.Contains(err.Error(), "a: its type does not follow") {
		t.Errorf("got %v", err)
	}
}

func values(t *testing.T, content string) []value {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	values, err := readValues(file)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func decoded(t *testing.T, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}
