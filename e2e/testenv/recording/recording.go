// SPDX-License-Identifier: Apache-2.0

// Package recording records commands at a terminal, and draws the session as an animated SVG for the documentation.
//
// A session is stored in the format asciicast v2 (docs.asciinema.org/manual/asciicast/v2), which other programs play too.
package recording

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Recording is a session at a terminal.
type Recording struct {
	Title string
	// Width is the number of columns.
	Width  int
	Events []Event
}

// Event is an output of the session.
type Event struct {
	// At is the time since its start.
	At   time.Duration
	Text string
}

type header struct {
	Version int    `json:"version"`
	Width   int    `json:"width"`
	Height  int    `json:"height"`
	Title   string `json:"title"`
}

const version = 2

// Encode returns the session as a file.
func (r *Recording) Encode() ([]byte, error) {
	lines, err := r.Final()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(header{version, r.Width, len(lines), r.Title}); err != nil {
		return nil, err
	}
	for _, event := range r.Events {
		if err := encoder.Encode([]any{json.Number(strconv.FormatFloat(event.At.Seconds(), 'f', 3, 64)), "o", event.Text}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// Decode reads such a file.
func Decode(content []byte) (*Recording, error) {
	decoder := json.NewDecoder(bytes.NewReader(content))
	var first header
	if err := decoder.Decode(&first); err != nil {
		return nil, fmt.Errorf("reading the header of the recording: %w", err)
	}
	if first.Version != version || first.Width <= 0 {
		return nil, fmt.Errorf("expected a recording of version %d with a width, got version %d and width %d", version, first.Version, first.Width)
	}
	r := &Recording{Title: first.Title, Width: first.Width}
	for decoder.More() {
		var fields [3]any
		if err := decoder.Decode(&fields); err != nil {
			return nil, fmt.Errorf("reading event %d of the recording: %w", len(r.Events)+1, err)
		}
		seconds, isNumber := fields[0].(float64)
		text, isText := fields[2].(string)
		if !isNumber || !isText || fields[1] != "o" {
			return nil, fmt.Errorf("event %d of the recording: expected a time, \"o\" and a text, got %v", len(r.Events)+1, fields)
		}
		r.Events = append(r.Events, Event{time.Duration(seconds * float64(time.Second)), text})
	}
	return r, nil
}

// Prompt begins a command.
const Prompt = "$ "

// Append adds a command, as typed, and what it printed at a terminal; times are since its start. An empty line precedes it,
// unless another command without output does.
func (r *Recording) Append(command string, output []Event) {
	start := time.Duration(0)
	if last := len(r.Events) - 1; last >= 0 {
		start = r.Events[last].At + time.Second
		if !strings.HasPrefix(r.Events[last].Text, Prompt) {
			r.Events = append(r.Events, Event{start, "\r\n"})
		}
	}
	r.Events = append(r.Events, Event{start, Prompt + command + "\r\n"})
	for _, event := range output {
		r.Events = append(r.Events, Event{start + event.At, event.Text})
	}
}

// Final returns the last screen as plain text, without empty lines at its end.
func (r *Recording) Final() ([]string, error) {
	screen, err := r.play(func(time.Duration, int, []span) {})
	if err != nil {
		return nil, err
	}
	lines := make([]string, 0, len(screen))
	for _, line := range screen {
		lines = append(lines, strings.TrimRight(text(line), " "))
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines, nil
}

// span is text of one colour, an SGR parameter; empty for the terminal's own.
type span struct{ text, colour string }

func text(line []span) string {
	var all strings.Builder
	for _, s := range line {
		all.WriteString(s.text)
	}
	return all.String()
}

var errSequence = errors.New("expected no other control sequences than colours, and the erasure of a line")

// play shows the events on a screen that never scrolls, and calls changed for each line that an event changed. It knows what
// the plugin writes (cli/terminal): text, line feeds, colours, and "\r\x1b[K".
func (r *Recording) play(changed func(at time.Duration, line int, content []span)) ([][]span, error) {
	lines, colour := [][]span{nil}, ""
	for _, event := range r.Events {
		first := len(lines) - 1
		for rest := event.Text; rest != ""; {
			last := len(lines) - 1
			switch {
			case strings.HasPrefix(rest, "\r\n"):
				rest, lines = rest[2:], append(lines, nil)
			case strings.HasPrefix(rest, "\r\x1b[K"):
				rest, lines[last] = rest[len("\r\x1b[K"):], nil
			case strings.HasPrefix(rest, "\x1b["):
				parameter, after, found := strings.Cut(rest[2:], "m")
				if !found || strings.Trim(parameter, "0123456789") != "" {
					return nil, fmt.Errorf("%w, got %.20q", errSequence, rest)
				}
				if rest, colour = after, parameter; colour == "0" {
					colour = ""
				}
			default:
				end := strings.IndexFunc(rest, func(c rune) bool { return c < ' ' || c == 0x7f })
				if end == 0 {
					return nil, fmt.Errorf("%w, got %.20q", errSequence, rest)
				}
				if end < 0 {
					end = len(rest)
				}
				lines[last], rest = append(lines[last], span{rest[:end], colour}), rest[end:]
			}
		}
		for line := first; line < len(lines); line++ {
			changed(event.At, line, lines[line])
		}
	}
	return lines, nil
}
