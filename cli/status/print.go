// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// print writes a table, and problems and notes below it.
func (f *summary) print(out io.Writer, now time.Time, wide bool) {
	var table strings.Builder
	colours := f.table(&table, now, wide)
	for line := range strings.Lines(table.String()) {
		terminal.Paint(out, colours[0], strings.TrimSuffix(line, "\n"))
		fmt.Fprintln(out)
		colours = colours[1:]
	}
	f.printRemotes(out, now)
	if table.Len() > 0 && (len(f.Problems) > 0 || len(f.Notes) > 0 || len(f.Roots) > 1) {
		fmt.Fprintln(out)
	}
	for _, problem := range f.Problems {
		terminal.Paint(out, terminal.Red, terminal.OneLine(problem))
		fmt.Fprintln(out)
	}
	for _, note := range f.Notes {
		terminal.Paint(out, terminal.Yellow, terminal.OneLine(note))
		fmt.Fprintln(out)
	}
	if len(f.Roots) > 1 && f.allTrusted() {
		fmt.Fprintf(out, "A root change is in progress: %s. Every istiod trusts all of these roots\n", f.rootsInWords())
	}
}

// table writes a header and a line for each replica, if any, and returns the colour of each line.
func (f *summary) table(out io.Writer, now time.Time, wide bool) (colours []string) {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	header := []string{"CONTEXT", "NAMESPACE", "POD", "STATE", "SERIAL", "KEY", "LEFT", "ROOT", "ROOT-LEFT", "RENEWED", "NEXT", "REMOTE"}
	if wide {
		header = append(header, "CONFIRMED", "SOURCE", "ISSUER", "LIMITED-BY", "CERTIFICATE")
	}
	for _, context := range f.Contexts {
		for i := range context.Replicas {
			if len(colours) == 0 {
				fmt.Fprintln(table, strings.Join(header, "\t"))
				colours = append(colours, "")
			}
			r := &context.Replicas[i]
			cells := append([]string{context.Context}, r.cells(now, wide)...)
			for i, cell := range cells {
				cells[i] = cmp.Or(terminal.Plain(terminal.Line(cell)), "-") // before the tabwriter measures it
			}
			fmt.Fprintln(table, strings.Join(cells, "\t"))
			colour := ""
			switch {
			case r.State != stateReady:
				colour = terminal.Red
			case len(f.Roots) > 1 && r.CA.RootFingerprint != f.Roots[0].Fingerprint: // the most frequent root
				colour = terminal.Yellow
			}
			colours = append(colours, colour)
		}
	}
	_ = table.Flush() // a Builder does not fail
	return colours
}

// cells returns the columns of a replica, from NAMESPACE on.
func (r *replicaStatus) cells(now time.Time, wide bool) []string {
	ca, confirmed := r.CA, "no"
	switch {
	case ca == nil:
		ca, confirmed = &certificatesv1.CertificateStatus{}, ""
	case ca.Confirmed:
		confirmed = "yes"
	}
	serial, root := abbreviatedSerial(ca.SerialNumber), abbreviatedRoot(ca.RootFingerprint)
	if extra := len(ca.TrustedRoots) - 1; extra > 0 {
		root += fmt.Sprintf(" (+%d)", extra)
	}
	if wide {
		serial, root = ca.SerialNumber, ca.RootFingerprint
		if len(ca.TrustedRoots) > 1 {
			root += " (trusts " + strings.Join(ca.TrustedRoots, ", ") + ")"
		}
	}
	cells := []string{
		r.Namespace, r.Pod, string(r.State), serial, ca.Key,
		until(ca.NotAfter, now, "", "expired"), root, until(ca.RootNotAfter, now, "", "expired"), since(ca.NotBefore, now), until(ca.RenewAt, now, "in ", "now"), remoteCell(ca.RemoteClusters, wide),
	}
	if wide {
		cells = append(cells, confirmed, r.Source, ca.Issuer, ca.LimitedBy, r.IssuedCertificate)
	}
	return cells
}

func abbreviatedSerial(serial string) string {
	const kept = 11 // four bytes
	if len(serial) <= kept {
		return serial
	}
	return "…" + serial[len(serial)-kept:]
}

func abbreviatedRoot(fingerprint string) string {
	return fmt.Sprintf("%.12s", fingerprint)
}

// until returns the time left, after a prefix, or past where there is none.
func until(t *metav1.Time, now time.Time, prefix, past string) string {
	switch {
	case t == nil:
		return ""
	case !now.Before(t.Time):
		return past
	}
	return prefix + duration.HumanDuration(t.Sub(now))
}

func since(t *metav1.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return duration.HumanDuration(now.Sub(t.Time)) + " ago"
}
