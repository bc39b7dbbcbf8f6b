// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// meanwhile is the output of `make demo-meanwhile`, which hack/demo.sh runs beside this program.
type meanwhile struct {
	ended chan struct{}
	mu    sync.Mutex
	// lines are the last ones.
	lines []string
	// show gets each further line. Nil while the demo shows other things.
	show io.Writer
}

const (
	// allBuilt is the last line after a success.
	allBuilt = "Everything is built."
	// keptLines bounds what is kept for an error.
	keptLines = 200
)

// readMeanwhile reads the output in the background: a full pipe would stop the compiler.
func readMeanwhile(output io.Reader) *meanwhile {
	m := &meanwhile{ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		for lines := bufio.NewReader(output); ; {
			line, err := lines.ReadString('\n')
			if line = strings.TrimSuffix(line, "\n"); line != "" {
				m.add(line)
			}
			if err != nil {
				return
			}
		}
	}()
	return m
}

func (m *meanwhile) add(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.lines) == keptLines {
		m.lines = m.lines[1:]
	}
	m.lines = append(m.lines, line)
	if m.show != nil {
		fmt.Fprintln(m.show, line)
	}
}

// wait prints the last line so far and each further line until the output ends. It fails unless everything was built.
func (m *meanwhile) wait(ctx context.Context, out io.Writer) error {
	m.mu.Lock()
	if n := len(m.lines); n > 0 {
		fmt.Fprintln(out, m.lines[n-1])
	}
	m.show = out
	m.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-m.ended:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := len(m.lines); n == 0 || m.lines[n-1] != allBuilt {
		return errors.New("it failed:\n" + strings.Join(m.lines, "\n"))
	}
	return nil
}

// servers waits until Vault, istiod and the plugin are built.
func (d *demo) servers(ctx context.Context) error {
	d.steps.title("The CA from Vault")
	return d.steps.building("make demo-meanwhile: Vault, istiod and the plugin", func() error {
		return d.meanwhile.wait(ctx, os.Stdout)
	})
}
