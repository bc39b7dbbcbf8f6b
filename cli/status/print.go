// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

const short = 12 // of a fingerprint, in a table

// printText writes a table, and below it what is wrong.
func printText(out io.Writer, reports []Report, now time.Time, wide, coloured bool) error {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	header := "CONTEXT\tNAMESPACE\tPOD\tSTATE\tSERIAL\tKEY\tLEFT\tROOT\tRENEWED\tNEXT"
	if wide {
		header += "\tISSUER\tCERTIFICATE"
	}
	fmt.Fprintln(table, header)
	var lines []bool // whether a line is of a replica that is well
	for _, report := range reports {
		for i := range report.Replicas {
			line := report.Replicas[i].line(now, wide)
			fmt.Fprintln(table, report.Context+"\t"+strings.Join(line, "\t"))
			lines = append(lines, report.Replicas[i].State == Ready)
		}
	}
	_ = table.Flush() // to memory
	if len(lines) == 0 {
		text.Reset()
	} else if coloured {
		rows := strings.SplitAfter(text.String(), "\n")
		for i, ready := range lines {
			if !ready {
				rows[i+1] = terminal.In(terminal.Red, strings.TrimSuffix(rows[i+1], "\n")) + "\n"
			}
		}
		text.Reset()
		text.WriteString(strings.Join(rows, ""))
	}
	for _, problem := range problems(reports) {
		if text.Len() > 0 && !strings.HasSuffix(text.String(), "\n\n") && problem.first {
			text.WriteString("\n")
		}
		line := terminal.OneLine(problem.text)
		if coloured {
			line = terminal.In(terminal.Red, line)
		}
		text.WriteString(line + "\n")
	}
	_, err := out.Write(text.Bytes())
	return err
}

// line is a replica's.
func (r *Replica) line(now time.Time, wide bool) []string {
	line := []string{r.Namespace, r.Pod, string(r.State)}
	if r.CA == nil {
		line = append(line, "-", "-", "-", "-", "-", "-")
		if wide {
			line = append(line, "-", dash(r.IssuedCertificate))
		}
		return line
	}
	serial, root := r.CA.SerialNumber, r.CA.RootFingerprint
	if !wide {
		serial, root = abbreviated(serial), root[:min(len(root), short)]
		if extra := len(r.CA.TrustedRoots) - 1; extra > 0 {
			root += fmt.Sprintf(" (+%d)", extra)
		}
	} else if len(r.CA.TrustedRoots) > 1 {
		root += " (trusts " + strings.Join(r.CA.TrustedRoots, ", ") + ")"
	}
	line = append(line, dash(serial), dash(r.CA.Key), until(r.CA.NotAfter, now), dash(root), since(r.CA.NotBefore, now), in(r.CA.RenewAt, now))
	if wide {
		line = append(line, dash(r.CA.Issuer), dash(r.IssuedCertificate))
	}
	return line
}

// abbreviated is the end of a serial number, by which a person tells it from others.
func abbreviated(serial string) string {
	const kept = 11 // four bytes
	if len(serial) <= kept {
		return serial
	}
	return "…" + serial[len(serial)-kept:]
}

func dash(text string) string { return cmp.Or(text, "-") }

func until(t *metav1.Time, now time.Time) string {
	switch {
	case t == nil:
		return "-"
	case !now.Before(t.Time):
		return "expired"
	}
	return duration.HumanDuration(t.Sub(now))
}

func since(t *metav1.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return duration.HumanDuration(now.Sub(t.Time)) + " ago"
}

func in(t *metav1.Time, now time.Time) string {
	switch {
	case t == nil:
		return "-"
	case !now.Before(t.Time):
		return "now"
	}
	return "in " + duration.HumanDuration(t.Sub(now))
}

type problem struct {
	text  string
	first bool
}

// problems are all that is to be said besides the table.
func problems(reports []Report) []problem {
	var all []problem
	add := func(format string, args ...any) {
		all = append(all, problem{fmt.Sprintf(format, args...), len(all) == 0})
	}
	for _, report := range reports {
		if report.Error != "" {
			add("%s: %s", report.Context, report.Error)
			continue
		}
		if len(report.Replicas) == 0 {
			add("%s: no Pod of istiod is there (label app=istiod)", report.Context)
		}
		for i := range report.Replicas {
			if r := &report.Replicas[i]; r.State != Ready {
				add("%s: %s/%s: %s", report.Context, r.Namespace, r.Pod, r.problem())
			}
		}
	}
	if roots := roots(reports); len(roots) > 1 {
		var words []string
		for _, root := range slices.Sorted(maps.Keys(roots)) {
			words = append(words, root[:min(len(root), short)]+" in "+strings.Join(roots[root], ", "))
		}
		add("The roots of trust differ: %s. Workloads of different roots refuse each other; docs/rotation.md leads to one root", strings.Join(words, "; "))
	}
	return all
}

// roots says which contexts have which root.
func roots(reports []Report) map[string][]string {
	found := map[string][]string{}
	for _, report := range reports {
		for _, replica := range report.Replicas {
			if replica.CA == nil || replica.CA.RootFingerprint == "" {
				continue
			}
			root := replica.CA.RootFingerprint
			if !slices.Contains(found[root], report.Context) {
				found[root] = append(found[root], report.Context)
			}
		}
	}
	return found
}

func printJSON(out io.Writer, reports []Report) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{"contexts": reports})
}

func printYAML(out io.Writer, reports []Report) error {
	text, err := yaml.Marshal(map[string]any{"contexts": reports})
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}
