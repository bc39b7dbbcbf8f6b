// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
)

// steps prints the progress: each step with the time since the start.
type steps struct {
	start    time.Time
	coloured bool
}

func newSteps() *steps {
	info, err := os.Stdout.Stat()
	terminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &steps{start: time.Now(), coloured: terminal && os.Getenv("NO_COLOR") == ""}
}

// step prints a step's name and runs it. It is never silent for long.
func (s *steps) step(name string, run func() error) error {
	return s.building(name, func() error {
		start, tick, done := time.Now(), time.NewTicker(interval), make(chan struct{})
		defer tick.Stop()
		var reported sync.WaitGroup
		reported.Go(func() {
			for {
				select {
				case <-done:
					return
				case now := <-tick.C:
					fmt.Printf("         … %s so far\n", now.Sub(start).Round(time.Second))
				}
			}
		})
		err := run()
		close(done)
		reported.Wait()
		return err
	})
}

// interval is the time between two lines of progress.
const interval = 5 * time.Second

// building is step for what prints its own progress.
func (s *steps) building(name string, run func() error) error {
	fmt.Printf("%6.1fs  %s\n", time.Since(s.start).Seconds(), name)
	if err := run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (s *steps) title(text string) { fmt.Printf("\n%s\n\n", s.colour("1", text)) }

// difference prints a unified diff, with colours in a terminal.
func (s *steps) difference(unified string) {
	for line := range strings.Lines(unified) {
		line = strings.TrimSuffix(line, "\n")
		switch line[:min(1, len(line))] {
		case "+":
			line = s.colour("32", line)
		case "-":
			line = s.colour("31", line)
		case "@":
			line = s.colour("36", line)
		}
		fmt.Println(line)
	}
}

func (s *steps) points(points []injected.Point) {
	for _, point := range points {
		if point.Err == nil {
			fmt.Printf("  %s  %s\n", s.colour("32", "yes"), point.Name)
		} else {
			fmt.Printf("  %s   %s: %v\n", s.colour("31", "NO"), point.Name, point.Err)
		}
	}
}

// next prints commands, each with what it shows as a comment, so that a whole line can be copied.
func (s *steps) next(title string, commands []command) {
	s.title(title)
	for _, each := range commands {
		if each.shows == "" {
			fmt.Printf("  %s\n", each.line)
		} else {
			fmt.Printf("  %-48s  # %s\n", each.line, each.shows)
		}
	}
}

func (s *steps) colour(code, text string) string {
	if !s.coloured {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
