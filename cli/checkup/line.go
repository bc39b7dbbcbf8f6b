// SPDX-License-Identifier: Apache-2.0

// Package checkup finds out whether clusters are as istiod-agent needs them, before and after its installation. It changes
// nothing: the one thing that it creates, an istiod, is a dry run.
package checkup

import (
	"fmt"
	"io"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// Status of a line.
type Status string

// The statuses.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
	// Unknown could not be found out.
	Unknown Status = "unknown"
)

// Line is one thing that was looked at.
type Line struct {
	Status Status `json:"status"`
	// What was looked at.
	What string `json:"what"`
	// Detail says what was found.
	Detail string `json:"detail"`
	// Next is a command to run, or something else to do; a line that fails has one.
	Next string `json:"next,omitempty"`
}

// Report is what was found in one of a kubeconfig's contexts.
type ContextChecks struct {
	Context string `json:"context"`
	Lines   []Line `json:"checks"`
}

func count(contexts []ContextChecks, status Status) (n int) {
	for _, report := range contexts {
		for _, line := range report.Lines {
			if line.Status == status {
				n++
			}
		}
	}
	return n
}

var colours = map[Status]string{OK: terminal.Green, Warn: terminal.Yellow, Fail: terminal.Red, Unknown: terminal.Purple}

// printText writes reports for people.
func printText(out io.Writer, contexts []ContextChecks) {
	for i, report := range contexts {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "Context %s\n", report.Context)
		for _, line := range report.Lines {
			terminal.Paint(out, colours[line.Status], fmt.Sprintf("%-7s", line.Status))
			fmt.Fprintf(out, "  %s  — %s", terminal.Line(line.What), terminal.OneLine(line.Detail))
			if line.Next != "" {
				fmt.Fprintf(out, "; next: %s", terminal.Line(line.Next))
			}
			fmt.Fprintln(out)
		}
	}
}
