// SPDX-License-Identifier: Apache-2.0

// Package terminal writes to terminals. Text from a cluster, a Vault or a file cannot move the cursor and cannot recolour,
// reorder or hide anything: a Writer escapes it. Only this package writes control sequences.
package terminal

import (
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// Writer escapes its input as Plain does.
type Writer struct {
	// Coloured enables the colours of Paint: out is a terminal, and NO_COLOR is not set (no-color.org).
	Coloured bool

	out io.Writer

	mu      sync.Mutex
	started []byte // the first bytes of an incomplete character
	err     error  // the first error
}

// NewWriter writes to out.
func NewWriter(out io.Writer) *Writer {
	return &Writer{out: out, Coloured: overwritable(out) && os.Getenv("NO_COLOR") == ""}
}

// Write writes the escaped text.
func (w *Writer) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(w.started, text...)
	whole := len(all) - unfinished(all)
	w.started = append([]byte(nil), all[whole:]...)
	return len(text), w.raw(Plain(string(all[:whole])))
}

// Close writes an incomplete character, and returns the first error of all writes.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.raw(Plain(string(w.started)))
	w.started = nil
	return w.err
}

func (w *Writer) control(sequence string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.raw(sequence)
}

func (w *Writer) raw(text string) error {
	if text == "" {
		return nil
	}
	_, err := io.WriteString(w.out, text)
	if w.err == nil {
		w.err = err
	}
	return err
}

// unfinished returns the length of an incomplete character at the end of a text.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

// The colours.
const (
	Red    = "31"
	Green  = "32"
	Yellow = "33"
	Purple = "35"
)

// Paint writes a text in a colour, if out is coloured. Close returns its error.
func Paint(out io.Writer, colour, text string) {
	w, ok := out.(*Writer)
	ok = ok && w.Coloured && colour != ""
	if ok {
		w.control("\x1b[" + colour + "m")
	}
	_, _ = io.WriteString(out, text)
	if ok {
		w.control("\x1b[0m")
	}
}

// Data returns the destination for data that programs read byte for byte: out itself on a terminal, else the writer below it.
func Data(out io.Writer) io.Writer {
	w, ok := out.(*Writer)
	if !ok {
		return out
	}
	if file, ok := w.out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return out
	}
	return w.out
}

// overwritable reports whether out is a terminal that supports control sequences.
func overwritable(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
