// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Progress tells what is waited for: in one line on a terminal, with the time that it takes, else in a line for each
// thing that changes. Several may tell at the same time, each about something.
type Progress struct {
	out   *Writer
	now   func() time.Time
	width func() int // 0 where out is no terminal

	mu       sync.Mutex
	started  time.Time
	subjects []string // in the order in which they began
	texts    map[string]string
	written  bool
}

// NewProgress tells it on out.
func NewProgress(out io.Writer) *Progress {
	writer, ok := out.(*Writer)
	if !ok {
		writer = NewWriter(out)
	}
	p := &Progress{out: writer, now: time.Now, width: func() int { return 0 }, texts: map[string]string{}}
	if file, ok := writer.out.(*os.File); ok && overwritable(file) {
		p.width = func() int {
			const usual = 80
			if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
				return width
			}
			return usual
		}
	}
	p.started = p.now()
	return p
}

// Say tells what is waited for now, about something.
func (p *Progress) Update(subjects, format string, args ...any) {
	subjects, text := Line(subjects), OneLine(fmt.Sprintf(format, args...))
	p.mu.Lock()
	defer p.mu.Unlock()
	same := p.texts[subjects] == text
	if p.texts[subjects] = text; !slices.Contains(p.subjects, subjects) {
		p.subjects = append(p.subjects, subjects)
	}
	switch width := p.width(); {
	case width > 0:
		p.overwrite(width)
	case !same:
		fmt.Fprintf(p.out, "%s: %s\n", subjects, text)
	}
}

// Leave says no more about something.
func (p *Progress) Remove(subjects string) {
	subjects = Line(subjects)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.texts, subjects)
	p.subjects = slices.DeleteFunc(p.subjects, func(each string) bool { return each == subjects })
	if width := p.width(); width > 0 && p.written {
		p.overwrite(width)
	}
}

// Done leaves the place for what is written next.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written {
		p.out.control(erase)
	}
	p.subjects, p.texts, p.written = nil, map[string]string{}, false
}

// After says when a waiting has ended: ctx has either run out of its time or was cancelled, as by Ctrl-C.
func WaitEnd(ctx context.Context, limit time.Duration) string {
	if errors.Is(ctx.Err(), context.Canceled) {
		return "until it was interrupted"
	}
	return "after " + duration.HumanDuration(limit)
}

const erase = "\r\x1b[K"

// overwrite puts all that is said in one line, which must not be longer than the terminal is wide: what has been broken
// over two lines cannot be written over.
func (p *Progress) overwrite(width int) {
	var parts []string
	for _, subjects := range p.subjects {
		parts = append(parts, subjects+": "+p.texts[subjects])
	}
	line := []rune(Plain(p.now().Sub(p.started).Truncate(time.Second).String() + "  " + strings.Join(parts, " | ")))
	if most := width - 1; len(line) > most {
		line = append(line[:max(most-1, 0)], '…')
	}
	p.out.control(erase)
	fmt.Fprint(p.out, string(line))
	p.written = true
}
