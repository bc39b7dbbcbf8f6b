// SPDX-License-Identifier: Apache-2.0

// Package checkup checks clusters before and after the installation of istiod-agent. It changes nothing: the only object
// that it creates, an istiod, is a dry run.
package checkup

import (
	"fmt"
	"io"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// Status is the result of a check.
type Status string

// The statuses.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
	// Unknown: the check itself failed.
	Unknown Status = "unknown"
)

// Line is one check.
type Line struct {
	Status Status `json:"status"`
	// What is the subject.
	What string `json:"what"`
	// Detail is the finding.
	Detail string `json:"detail"`
	// Next is the next step; a line that is not ok has one.
	Next string `json:"next,omitempty"`
}

// ContextChecks are the checks of one context.
type ContextChecks struct {
	Context string `json:"context"`
	Lines   []Line `json:"checks"`
}

func count(contexts []ContextChecks, status Status) (n int) {
	for _, checks := range contexts {
		for _, line := range checks.Lines {
			if line.Status == status {
				n++
			}
		}
	}
	return n
}

var colours = map[Status]string{OK: terminal.Green, Warn: terminal.Yellow, Fail: terminal.Red, Unknown: terminal.Purple}

// printText writes the checks as text.
func printText(out io.Writer, contexts []ContextChecks) {
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
