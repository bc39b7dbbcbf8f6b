// SPDX-License-Identifier: Apache-2.0

// Package bounded cuts text from other programs to a length that a log line, an
// Event, a status or an admission answer can hold.
package bounded

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"

	"github.com/go-logr/logr"
)

// MaxMessage is the most bytes of one message or one log attribute. It is also
// the API server's limit for the note of an Event.
const MaxMessage = 1024

const ellipsis = "…"

// Text returns text that has at most limit bytes, cut at a character and marked
// with an ellipsis where it was longer.
func Text(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:max(0, limit-len(ellipsis))], "") + ellipsis
}

// Plain returns text on one line that a terminal shows as it is: control characters, line breaks and invisible
// characters become spaces, as do bytes that are not UTF-8.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, " "))
}

// Message is Text of at most MaxMessage bytes.
func Message(text string) string { return Text(text, MaxMessage) }

// List returns the first elements of a list, each cut to MaxMessage. When some
// are left out, the last element that it returns reports how many.
func List(texts []string, limit int) []string {
	if texts == nil {
		return nil
	}
	kept := make([]string, 0, min(len(texts), limit))
	for i, text := range texts {
		if i == limit-1 && len(texts) > limit {
			return append(kept, fmt.Sprintf("and %d more", len(texts)-i))
		}
		kept = append(kept, Message(text))
	}
	return kept
}

// NewLogger returns the logger for the values of the flags --log-level and --log-format. It cuts what it logs, and becomes slog's
// default, so that what net/http logs by itself goes the same way.
func NewLogger(to io.Writer, level, format string) (logr.Logger, error) {
	options := &slog.HandlerOptions{ReplaceAttr: cut}
	switch level {
	case "info":
	case "debug":
		options.Level = slog.LevelDebug
	default:
		return logr.Discard(), fmt.Errorf("--log-level: expected info or debug, got %q", level)
	}
	var handler slog.Handler
	switch format {
	case "json":
		handler = slog.NewJSONHandler(to, options)
	case "text":
		handler = slog.NewTextHandler(to, options)
	default:
		return logr.Discard(), fmt.Errorf("--log-format: expected json or text, got %q", format)
	}
	slog.SetDefault(slog.New(handler))
	return logr.FromSlogHandler(handler), nil
}

// cut cuts a log attribute. It applies to the message of a line as well, so that no line grows with what others send.
func cut(_ []string, attr slog.Attr) slog.Attr {
	switch attr.Value.Kind() {
	case slog.KindString:
		return slog.String(attr.Key, Message(attr.Value.String()))
	case slog.KindAny:
		switch value := attr.Value.Any().(type) {
		case slog.Level: // logr's V(1) lies between debug and info, and would print as DEBUG+3
			if value > slog.LevelDebug && value < slog.LevelInfo {
				value = slog.LevelDebug
			}
			return slog.String(attr.Key, value.String())
		case error, fmt.Stringer:
			return slog.String(attr.Key, Message(fmt.Sprint(value)))
		default:
			if text := fmt.Sprint(value); len(text) > MaxMessage {
				return slog.String(attr.Key, Message(text))
			}
		}
	}
	return attr
}
