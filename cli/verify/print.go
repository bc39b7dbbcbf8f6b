// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"crypto/x509"
	"fmt"
	"io"
	"strings"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

type verification struct {
	// Roots are the SHA-256 (DER), in hexadecimal, of the expected roots.
	Roots []string  `json:"roots"`
	Lines []finding `json:"lines"`

	roots []*x509.Certificate
}

// finding is the result for one namespace, or for one handshake.
type finding struct {
	OK bool `json:"ok"`
	// Context, Namespace and What name the subject; Namespace and What are empty where the context could not be read.
	Context   string `json:"context"`
	Namespace string `json:"namespace,omitempty"`
	What      string `json:"what,omitempty"`
	Detail    string `json:"detail"`
}

// print writes the result as text. Unless wide, namespaces with the same result share a line.
func (r *verification) print(out io.Writer, wide bool) {
	for _, root := range r.roots {
		fmt.Fprintf(out, "Root %s, SHA-256 %s\n", terminal.Line(pemcerts.Subject(root)), pemcerts.Fingerprint(root))
	}
	printed := map[finding]bool{}
	for _, line := range r.Lines {
		namespaces := []string{line.Namespace}
		if !wide && line.Namespace != "" {
			finding := line
			if finding.Namespace = ""; printed[finding] {
				continue
			}
			printed[finding], namespaces = true, r.namespaces(finding)
		}
		status, colour := "ok  ", terminal.Green
		if !line.OK {
			status, colour = "fail", terminal.Red
		}
		terminal.Paint(out, colour, status)
		fmt.Fprintf(out, "  %s\n", line.text(namespaces))
	}
}

// namespaces returns the namespaces with a finding, which is a line without a namespace.
func (r *verification) namespaces(finding finding) (namespaces []string) {
	for _, other := range r.Lines {
		namespace := other.Namespace
		if other.Namespace = ""; namespace != "" && other == finding {
			namespaces = append(namespaces, namespace)
		}
	}
	return namespaces
}

func (l *finding) text(namespaces []string) string {
	words := []string{l.Context}
	if where := strings.Join(namespaces, ", "); where == "" {
		words = append(words, l.What)
	} else if len(namespaces) == 1 {
		words = append(words, l.What+" in namespace "+where)
	} else {
		words = append(words, fmt.Sprintf("%s in %d namespaces (%s)", l.What, len(namespaces), terminal.Names(namespaces, 4)))
	}
	if words[1] == "" {
		words = words[:1]
	}
	return terminal.Line(strings.Join(append(words, terminal.OneLine(l.Detail)), ": "))
}
