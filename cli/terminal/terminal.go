// SPDX-License-Identifier: Apache-2.0

// Package terminal writes for people. Text from a cluster, a Vault or a file never moves the reader's cursor and never
// recolours, reorders or hides anything: a Writer escapes it. Only this package adds control sequences.
package terminal

import (
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// Writer makes plain what is written to it.
type Writer struct {
	// Coloured says whether Paint shows its colours: out is a terminal of somebody who wants them (no-color.org).
	Coloured bool

	out io.Writer

	mu      sync.Mutex
	started []byte // the beginning of a character whose end is not written yet
	err     error  // the first
}

// NewWriter writes to out.
func NewWriter(out io.Writer) *Writer {
	return &Writer{out: out, Coloured: overwritable(out) && os.Getenv("NO_COLOR") == ""}
}

// Write writes the text plain.
func (w *Writer) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(w.started, text...)
	whole := len(all) - unfinished(all)
	w.started = append([]byte(nil), all[whole:]...)
	return len(text), w.raw(Plain(string(all[:whole])))
}

// Close writes what is unfinished, and returns the first error of all writing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.raw(Plain(string(w.started)))
	w.started = nil
	return w.err
}

// control writes a control sequence of this package's own.
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

// unfinished is the length of a character's beginning at the end of a text.
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

// Paint writes a text in a colour, where out shows colours. Close returns its error.
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

// Data returns the destination for data that programs read byte for byte: out itself on a terminal, else what is below it.
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

// overwritable says whether out is a terminal that can be written over.
func overwritable(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
