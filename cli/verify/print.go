// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"io"
	"strings"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Result is what was found.
type Result struct {
	// Roots are the SHA-256 (DER), in hexadecimal, of those that are expected.
	Roots []string `json:"roots"`
	Lines []Line   `json:"lines"`

	roots []*x509.Certificate
}

// Line is what was found in one place.
type Line struct {
	// OK says whether it is as it should be.
	OK bool `json:"ok"`
	// Context and Namespace are where, and What was looked at; empty where nothing could be.
	Context   string `json:"context"`
	Namespace string `json:"namespace,omitempty"`
	What      string `json:"what,omitempty"`
	// Detail says what was found.
	Detail string `json:"detail"`
}

// print writes it for people: unless wide, namespaces of which the same is to be said share a line.
func (r *Result) print(out io.Writer, wide bool) {
	for _, root := range r.roots {
		fmt.Fprintf(out, "Root %s, SHA-256 %s\n", cmp.Or(terminal.Line(root.Subject.String()), "without a name"), pemcerts.Fingerprint(root))
	}
	printed := map[Line]bool{}
	for _, line := range r.Lines {
		namespaces := []string{line.Namespace}
		if !wide && line.Namespace != "" {
			alike := line
			if alike.Namespace = ""; printed[alike] {
				continue
			}
			printed[alike], namespaces = true, r.alike(alike)
		}
		status, colour := "ok  ", terminal.Green
		if !line.OK {
			status, colour = "fail", terminal.Red
		}
		terminal.Paint(out, colour, status)
		fmt.Fprintf(out, "  %s\n", line.words(namespaces))
	}
}

// alike are the namespaces of which the same is to be said.
func (r *Result) alike(line Line) (namespaces []string) {
	for _, other := range r.Lines {
		namespace := other.Namespace
		if other.Namespace = ""; namespace != "" && other == line {
			namespaces = append(namespaces, namespace)
		}
	}
	return namespaces
}

func (l *Line) words(namespaces []string) string {
	words := []string{l.Context}
	if where := strings.Join(namespaces, ", "); where == "" {
		words = append(words, l.What)
	} else if len(namespaces) == 1 {
		words = append(words, l.What+" in namespace "+where)
	} else {
		words = append(words, fmt.Sprintf("%s in %d namespaces (%s)", l.What, len(namespaces), few(namespaces)))
	}
	if words[1] == "" {
		words = words[:1]
	}
	return terminal.Line(strings.Join(append(words, terminal.OneLine(l.Detail)), ": "))
}

// few names the first ones.
func few(names []string) string {
	const most = 4
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
