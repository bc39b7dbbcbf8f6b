// SPDX-License-Identifier: Apache-2.0

// Package terminal knows how people see what a command writes.
package terminal

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Is says whether out is a terminal that can be written over.
func Is(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	about, err := file.Stat()
	return err == nil && about.Mode()&os.ModeCharDevice != 0
}

// Coloured says whether out is a terminal of somebody who wants colours (no-color.org).
func Coloured(out io.Writer) bool { return Is(out) && os.Getenv("NO_COLOR") == "" }

// The colours.
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Purple = "35"
)

// In gives a text its colour.
func In(colour, text string) string { return "\x1b[" + colour + "m" + text + "\x1b[0m" }

// OneLine has a text fit in a line, without what ends a sentence.
func OneLine(text string) string {
	return strings.TrimRight(strings.Join(strings.Fields(text), " "), ".;")
}

// Progress tells what is waited for: in one place on a terminal, else in a line for each thing that changes.
type Progress struct {
	out io.Writer

	mu     sync.Mutex
	last   string
	inLine bool
}

// NewProgress tells it on out.
func NewProgress(out io.Writer) *Progress { return &Progress{out: out, inLine: Is(out)} }

// Say tells what is waited for now.
func (p *Progress) Say(format string, args ...any) {
	text := OneLine(fmt.Sprintf(format, args...))
	p.mu.Lock()
	defer p.mu.Unlock()
	if text == p.last {
		return
	}
	p.last = text
	if p.inLine {
		fmt.Fprint(p.out, "\r\x1b[K"+text)
		return
	}
	fmt.Fprintln(p.out, text)
}

// Done leaves the place for what is written next.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inLine && p.last != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.last = ""
}
