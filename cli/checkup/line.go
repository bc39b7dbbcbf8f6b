// SPDX-License-Identifier: Apache-2.0

// Package checkup checks clusters before and after the installation of istiod-agent. It changes nothing: the only object
// that it creates, an istiod, is a dry run.
package checkup

import (
	"fmt"
	"io"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// level is the result of a check.
type level string

const (
	levelOK   level = "ok"
	levelWarn level = "warn"
	levelFail level = "fail"
	// levelUnknown: the check itself failed.
	levelUnknown level = "unknown"
)

type finding struct {
	Status level  `json:"status"`
	What   string `json:"what"`
	Detail string `json:"detail"`
	// Next is the next step; a line that is not ok has one.
	Next string `json:"next,omitempty"`
}

type contextFindings struct {
	Context string    `json:"context"`
	Lines   []finding `json:"checks"`
}

func count(contexts []contextFindings, status level) (n int) {
	for _, checks := range contexts {
		for _, line := range checks.Lines {
			if line.Status == status {
				n++
			}
		}
	}
	return n
}

var colours = map[level]string{levelOK: terminal.Green, levelWarn: terminal.Yellow, levelFail: terminal.Red, levelUnknown: terminal.Purple}

func printText(out io.Writer, contexts []contextFindings) {
	for i, checks := range contexts {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "Context %s\n", checks.Context)
		for _, line := range checks.Lines {
			terminal.Paint(out, colours[line.Status], fmt.Sprintf("%-7s", line.Status))
			fmt.Fprintf(out, "  %s  — %s", terminal.Line(line.What), terminal.OneLine(line.Detail))
			if line.Next != "" {
				fmt.Fprintf(out, "; next: %s", terminal.Line(line.Next))
			}
			fmt.Fprintln(out)
		}
	}
}
