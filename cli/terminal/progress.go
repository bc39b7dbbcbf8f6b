// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"cmp"
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

// Progress prints what a command waits for, by subject: on a terminal in one line that it overwrites, with the elapsed time;
// elsewhere in a line for each change. It is safe for concurrent use.
type Progress struct {
	out   *Writer
	now   func() time.Time
	width func() int // 0 where out is not a terminal

	mu       sync.Mutex
	started  time.Time
	subjects []string // in the order of their first update
	texts    map[string]string
	written  bool
}

// NewProgress prints to out.
func NewProgress(out io.Writer) *Progress {
	writer, ok := out.(*Writer)
	if !ok {
		writer = NewWriter(out)
	}
	p := &Progress{out: writer, now: time.Now, width: func() int { return 0 }, texts: map[string]string{}}
	if file, ok := writer.out.(*os.File); ok && overwritable(file) {
		p.width = func() int {
			width, _, _ := term.GetSize(int(file.Fd())) // 0 where it is unknown
			return cmp.Or(width, 80)
		}
	}
	p.started = p.now()
	return p
}

// Update prints what a subject waits for now.
func (p *Progress) Update(subject, format string, args ...any) {
	subject, text := Line(subject), OneLine(fmt.Sprintf(format, args...))
	p.mu.Lock()
	defer p.mu.Unlock()
	same := p.texts[subject] == text
	if p.texts[subject] = text; !slices.Contains(p.subjects, subject) {
		p.subjects = append(p.subjects, subject)
	}
	switch width := p.width(); {
	case width > 0:
		p.overwrite(width)
	case !same:
		fmt.Fprintf(p.out, "%s: %s\n", subject, text)
	}
}

// Remove removes a subject.
func (p *Progress) Remove(subject string) {
	subject = Line(subject)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.texts, subject)
	p.subjects = slices.DeleteFunc(p.subjects, func(other string) bool { return other == subject })
	if width := p.width(); width > 0 && p.written {
		p.overwrite(width)
	}
}

// Done erases the line.
func (p *Progress) Done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.written {
		p.out.control(erase)
	}
	p.subjects, p.texts, p.written = nil, map[string]string{}, false
}

// WaitEnd names what ended a wait: its timeout, or the cancellation of ctx, as by Ctrl-C.
func WaitEnd(ctx context.Context, limit time.Duration) string {
	if errors.Is(ctx.Err(), context.Canceled) {
		return "until it was interrupted"
	}
	return "after " + duration.HumanDuration(limit)
}

const erase = "\r\x1b[K"

// overwrite prints all texts in one line, cut to the terminal's width: a wrapped line cannot be overwritten.
func (p *Progress) overwrite(width int) {
	var parts []string
	for _, subject := range p.subjects {
		parts = append(parts, subject+": "+p.texts[subject])
	}
	line := []rune(Plain(p.now().Sub(p.started).Truncate(time.Second).String() + "  " + strings.Join(parts, " | ")))
	if limit := width - 1; len(line) > limit {
		line = append(line[:max(limit-1, 0)], '…')
	}
	p.out.control(erase)
	fmt.Fprint(p.out, string(line))
	p.written = true
}
