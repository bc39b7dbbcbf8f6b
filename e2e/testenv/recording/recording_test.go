// SPDX-License-Identifier: Apache-2.0

package recording_test

import (
	"encoding/xml"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/recording"
)

var must = check.Must

var update = flag.Bool("update", false, "draw the pictures in docs/pictures again")

// sample has a command with progress and a colour, after a comment and another command.
func sample() *recording.Recording {
	r := &recording.Recording{Title: "A <title>", Width: 20}
	r.Append("first", []recording.Event{{At: 20 * time.Second, Text: "a & b\r\n"}})
	r.Append("# then", nil)
	r.Append("second", []recording.Event{
		{At: time.Second, Text: "0s  waiting"},
		{At: 2 * time.Second, Text: "\r\x1b[K\x1b[32mok\x1b[0m  a line that does not fit\r\n"},
	})
	return r
}

func TestFinal(t *testing.T) {
	lines, err := sample().Final()
	must(t, err)
	if want := []string{"$ first", "a & b", "", "$ # then", "$ second", "ok  a line that does not fit"}; !slices.Equal(lines, want) {
		t.Errorf("got %q, want %q", lines, want)
	}
}

func TestEncode(t *testing.T) {
	content, err := sample().Encode()
	must(t, err)
	read, err := recording.Decode(content)
	must(t, err)
	if again, err := read.Encode(); err != nil || string(again) != string(content) || read.Title != "A <title>" || read.Width != 20 {
		t.Errorf("%v: got\n%s\nwant\n%s", err, again, content)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"nothing":            "",
		"another version":    `{"version":1,"width":80}`,
		"no width":           `{"version":2}`,
		"an input event":     `{"version":2,"width":80}` + "\n" + `[0,"i","a"]`,
		"an event as object": `{"version":2,"width":80}` + "\n" + `{}`,
		"a time in words":    `{"version":2,"width":80}` + "\n" + `["0","o","a"]`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := recording.Decode([]byte(content)); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestSVG(t *testing.T) {
	picture, err := sample().SVG()
	must(t, err)
	text := string(picture)
	must(t, xml.Unmarshal(picture, new(any)))
	for _, want := range []string{
		`<title id="title">A &lt;title&gt;</title>`, `>a &amp; b</text>`, `<tspan class="green">ok</tspan>  a line that does</text>`, `>not fit</text>`,
		"prefers-color-scheme: dark", "prefers-reduced-motion: no-preference",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the picture does not contain %s:\n%s", want, text)
		}
	}
	if !regexp.MustCompile(`class="passing"[^>]*>0s  waiting<`).MatchString(text) {
		t.Error("the progress does not pass")
	}
	for _, match := range regexp.MustCompile(`animation-delay:([0-9.]+)s`).FindAllStringSubmatch(text, -1) {
		if delay, err := strconv.ParseFloat(match[1], 64); err != nil || delay > 5 {
			t.Errorf("something moves after %s seconds", match[1])
		}
	}
}

func TestSVGRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a cursor's movement":   "a\x1b[2Jb",
		"a title":               "\x1b]0;d\x07",
		"a carriage return":     "a\rb",
		"an incomplete colour":  "\x1b[31",
		"another control":       "a\x07",
		"a parameter with text": "\x1b[3;am",
	} {
		t.Run(name, func(t *testing.T) {
			r := &recording.Recording{Width: 80, Events: []recording.Event{{Text: text}}}
			if picture, err := r.SVG(); err == nil {
				t.Errorf("no error: %s", picture)
			}
		})
	}
}

// The pictures in the documentation are those of their recordings, and small.
func TestPictures(t *testing.T) {
	root, err := built.Root()
	must(t, err)
	files, err := filepath.Glob(filepath.Join(root, "docs", "pictures", "*.cast"))
	must(t, err)
	if len(files) < 2 {
		t.Fatalf("found only %q", files)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		must(t, err)
		r, err := recording.Decode(content)
		must(t, err)
		picture, err := r.SVG()
		must(t, err)
		drawn := strings.TrimSuffix(file, ".cast") + ".svg"
		if *update {
			must(t, os.WriteFile(drawn, picture, 0o644))
		}
		committed, err := os.ReadFile(drawn)
		must(t, err)
		if string(committed) != string(picture) {
			t.Errorf("%s is not the picture of its recording: go test ./testenv/recording -update", drawn)
		}
		if len(picture) > 100<<10 || r.Width > 100 {
			t.Errorf("%s has %d bytes and %d columns", file, len(picture), r.Width)
		}
	}
}
