// SPDX-License-Identifier: Apache-2.0

package bounded

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":             "",
		"short":        "short",
		"just right":   "just right",
		"far too long": "far too…",
		"cut in ääää":  "cut in …",
	} {
		if got := Text(text, 10); got != want || !utf8.ValidString(got) {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                      "",
		"plain, größer":         "plain, größer",
		"a\x00b\x1b[2Jc\x7fd":   "a b [2Jc d",
		"a\r\nb\tc":             "a  b c",
		"a\u202eb\u200bc\u2028": "a b c ",
		"a\xffb":                "a b",
	} {
		if got := Plain(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ list, want []string }{
		"nothing":   {nil, nil},
		"empty":     {[]string{}, []string{}},
		"few":       {[]string{"a", "b", "c"}, []string{"a", "b", "c"}},
		"too many":  {[]string{"a", "b", "c", "d", "e"}, []string{"a", "b", "and 3 more"}},
		"too large": {[]string{strings.Repeat("a", 2000)}, []string{strings.Repeat("a", MaxMessage-len(ellipsis)) + ellipsis}},
	} {
		if got := List(test.list, 3); !slices.Equal(got, test.want) || (got == nil) != (test.want == nil) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestAttr(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long", 1<<20)
	type reason string
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{ReplaceAttr: cut})).
		Info(long, "text", long, "error", errors.New(long), "reason", reason(long), "list", []string{long}, "number", 5)
	if line := out.String(); len(line) > 6*MaxMessage || !strings.Contains(line, `"number":5`) || !strings.Contains(line, `"level":"INFO"`) {
		t.Errorf("%d bytes: %.300s", len(line), line)
	}
}
