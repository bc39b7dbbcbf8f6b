// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestPlain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"an escape":            {"a\x1b[2Jb", `a\u001b[2Jb`},
		"a link":               {"\x1b]8;;https://x\x07y\x1b\\", `\u001b]8;;https://x\u0007y\u001b\`},
		"a C1 control":         {"a\u009b2Jb", `a\u009b2Jb`},
		"a raw C1 byte":        {"a\x9b2Jb", `a\x9b2Jb`},
		"a carriage return":    {"fail\rok  ", `fail\u000dok  `},
		"a backspace":          {"a\b\x7f", `a\u0008\u007f`},
		"right to left":        {"a\u202eb\u202c\u2066c\u2069\u200f\u061c", `a\u202eb\u202c\u2066c\u2069\u200f\u061c`},
		"zero width":           {"a\u200bb\u200d\ufeff\u2060", `a\u200bb\u200d\ufeff\u2060`},
		"separators of lines":  {"a\u2028b\u2029\u0085", `a\u2028b\u2029\u0085`},
		"blanks of other kind": {"a\u00a0b\u3000", `a\u00a0b\u3000`},
		"fillers":              {"a\u3164b\u115f\u034f\ufe0f", `a\u3164b\u115f\u034f\ufe0f`},
		"tags":                 {"a\U000e0041", `a\udb40\udc41`},
		"private use":          {"a\ue000", `a\ue000`},
		"letters":              {"Grüße, 世界, שלום, नमस्ते — „…“ 🙂", "Grüße, 世界, שלום, नमस्ते — „…“ 🙂"},
		"lines and tabs":       {"a\tb\r\nc\n", "a\tb\r\nc\n"},
		"nothing":              {"", ""},
	} {
		if got := Plain(test.text); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
		var same string
		if text, _ := json.Marshal(test.text); utf8.ValidString(test.text) && (json.Unmarshal([]byte(Plain(string(text))), &same) != nil || same != test.text) {
			t.Errorf("%s: in JSON it is no more the same: %q", name, same)
		}
	}
}

func FuzzPlain(f *testing.F) {
	f.Add("a\x1b[2Jb\u202e", 3)
	f.Fuzz(func(t *testing.T, text string, at int) {
		got := Plain(text)
		for _, r := range got {
			if r == '\r' || unicode.IsPrint(r) || r == '\n' || r == '\t' {
				continue
			}
			t.Errorf("%q holds %U", got, r)
		}
		if strings.Contains(strings.ReplaceAll(got, "\r\n", ""), "\r") {
			t.Errorf("%q holds a carriage return", got)
		}
		if Plain(got) != got {
			t.Errorf("%q is not plain yet", got)
		}
		// In pieces it is the same.
		if at = max(0, min(at, len(text))); !strings.Contains(text, "\r") {
			var out bytes.Buffer
			w := NewWriter(&out)
			fmt.Fprint(w, text[:at])
			fmt.Fprint(w, text[at:])
			if err := w.Close(); err != nil || out.String() != got {
				t.Errorf("in pieces: %q, want %q (%v)", &out, got, err)
			}
		}
	})
}

// The package's own sequences come through, and those of others beside them do not.
func TestPaint(t *testing.T) {
	t.Parallel()
	for coloured, want := range map[bool]string{false: `\u001b[32mok` + "\n", true: "\x1b[31m" + `\u001b[32mok` + "\x1b[0m\n"} {
		var out bytes.Buffer
		w := NewWriter(&out)
		if w.Coloured {
			t.Error("a buffer is taken for a terminal")
		}
		w.Coloured = coloured
		Paint(w, Red, "\x1b[32mok")
		fmt.Fprintln(w)
		if out.String() != want {
			t.Errorf("got %q, want %q", &out, want)
		}
	}
	var out bytes.Buffer
	Paint(&out, Red, "text")
	if out.String() != "text" {
		t.Errorf("got %q", &out)
	}
}

// What a program reads comes through as it is.
func TestData(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	fmt.Fprint(Data(NewWriter(&out)), "a\x1b\x9b\u202e\r")
	fmt.Fprint(Data(&out), "b")
	if out.String() != "a\x1b\x9b\u202e\rb" {
		t.Errorf("got %q", &out)
	}
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if Data(NewWriter(file)) != file {
		t.Error("a file is taken for a terminal")
	}
}

// An error of the writing is not lost, also where nobody looks for it.
func TestWriterKeepsTheError(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	w := NewWriter(failing{full})
	Paint(w, Red, "text")
	if err := w.Close(); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
