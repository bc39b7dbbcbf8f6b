// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// progress is one with a clock and a width of its own.
func progress(width int) (p *Progress, out *bytes.Buffer, pass func(time.Duration)) {
	out = &bytes.Buffer{}
	p = NewProgress(out)
	now := p.started
	p.now, p.width = func() time.Time { return now }, func() int { return width }
	return p, out, func(d time.Duration) { now = now.Add(d) }
}

// In a file or a pipe there is a line for each thing that changes, also when two are waited for in turn.
func TestProgressInAFile(t *testing.T) {
	t.Parallel()
	p, out, pass := progress(0)
	for range 3 {
		p.Update("a", "waiting for %s.", "x")
		p.Update("b", "waiting for y;\n and z")
		pass(time.Second)
	}
	p.Update("a", "waiting for w")
	p.Remove("b")
	p.Done()
	if want := "a: waiting for x\nb: waiting for y; and z\na: waiting for w\n"; out.String() != want {
		t.Errorf("got %q\nwant %q", out, want)
	}
}

// On a terminal there is one line, no longer than the terminal is wide, with the time that has passed.
func TestProgressOnATerminal(t *testing.T) {
	t.Parallel()
	p, out, pass := progress(30)
	p.Update("a", "waiting for x")
	pass(65 * time.Second)
	p.Update("b", "waiting for y")
	p.Remove("a")
	p.Done()
	want := erase + "0s  a: waiting for x" + erase + "1m5s  a: waiting for x | b: …" + erase + "1m5s  b: waiting for y" + erase
	if out.String() != want {
		t.Errorf("got %q\nwant %q", out, want)
	}
	for line := range strings.SplitSeq(out.String(), erase) {
		if n := len([]rune(line)); n >= 30 {
			t.Errorf("%q is %d characters long", line, n)
		}
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	if got := OneLine(" it failed:\n\tb\x1b[2Jadly.; "); got != "it failed: b\x1b[2Jadly" {
		t.Errorf("got %q", got)
	}
}
