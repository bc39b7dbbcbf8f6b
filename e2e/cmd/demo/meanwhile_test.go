// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// What was printed before the demo waits is not printed again, but for the last line.
func TestMeanwhileShowsWhatIsNew(t *testing.T) {
	m := &meanwhile{ended: make(chan struct{})}
	m.add("Building Vault, once")
	m.add("  vault: 2 of 3 packages compiled")
	out := &watched{written: make(chan string, 10)}
	waited := make(chan error)
	go func() { waited <- m.wait(t.Context(), out) }()
	if first := <-out.written; first != "  vault: 2 of 3 packages compiled\n" {
		t.Errorf("it prints %q first", first)
	}
	m.add("  vault: built")
	m.add(allBuilt)
	close(m.ended)
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if rest := <-out.written + <-out.written; rest != "  vault: built\n"+allBuilt+"\n" {
		t.Errorf("it prints %q then", rest)
	}
}

// watched tells of each line.
type watched struct{ written chan string }

func (w *watched) Write(text []byte) (int, error) {
	w.written <- string(text)
	return len(text), nil
}

// A build that fails, or is killed, is an error with what it printed, of which the last lines are kept.
func TestMeanwhileFails(t *testing.T) {
	for output, want := range map[string]string{
		"":                                      "it failed:\n",
		"main.go:1: no\nmake: Error\n":          "it failed:\nmain.go:1: no\nmake: Error",
		strings.Repeat("x", 1<<20) + "\nkilled": "x\nkilled",
		allBuilt + "\nkilled":                   "killed",
		"first\n" + strings.Repeat("x\n", keptLines): "it failed:\n" + strings.TrimSuffix(strings.Repeat("x\n", keptLines), "\n"),
	} {
		err := readMeanwhile(strings.NewReader(output)).wait(t.Context(), new(bytes.Buffer))
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%.20q: %.60v", output, err)
		}
	}
}

func TestMeanwhileIsInterrupted(t *testing.T) {
	output, _ := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := readMeanwhile(output).wait(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
