// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"fmt"
	"io"
	"slices"
	"strings"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// answer is what programs read.
type answer struct {
	Contexts []line `json:"contexts"`
	// Roots are the SHA-256 (DER), in hexadecimal, of those to trust, the new one last.
	Roots []string `json:"roots,omitempty"`
	// Next is what to do after this.
	Next string `json:"next,omitempty"`
}

// line is about one context.
type line struct {
	Context     string                         `json:"context"`
	VirtualMesh string                         `json:"virtualMesh,omitempty"`
	Stage       networkingv1.RootRotationStage `json:"stage,omitempty"`
	Complete    bool                           `json:"complete"`
	NewRoot     string                         `json:"newRoot,omitempty"`
	// Says what was done, is waited for, or is wrong.
	Says string `json:"says"`
}

// show says how far each context is.
func (f *flags) show(out io.Writer, all []*one) error {
	found := answer{Contexts: []line{}}
	unknown, going := false, false
	for _, each := range all {
		l := each.line()
		switch {
		case each.err != nil:
			unknown = true
			l.Says = terminal.OneLine(each.err.Error())
		case each.Rotation == nil:
			l.Says = "no change of the root is going on"
		default:
			going = going || !each.Rotation.Complete
			l.Says = each.Rotation.Message
		}
		found.Contexts = append(found.Contexts, l)
	}
	err := f.Write(out, found, func(out io.Writer) { found.print(out, true) })
	return f.end(err, unknown, going)
}

// tell says what became of a stage, and what comes next.
func (f *flags) tell(out io.Writer, stage networkingv1.RootRotation, plan *Plan, all []*one, next string) error {
	found := answer{Contexts: []line{}, Roots: pemcerts.Fingerprints(plan.Roots)}
	unknown, late := false, false
	for i, each := range all {
		l := each.line()
		switch {
		case f.dryRun && plan.Annotations[i] == nil:
			l.Says = "would be left as it is"
		case f.dryRun:
			l.Says = fmt.Sprintf("would be told %s", stage)
		case each.err != nil:
			unknown = true
			l.Says = terminal.OneLine(each.err.Error())
		case each.left != "":
			late = true
			l.Says = fmt.Sprintf("%s is not complete %s; waiting for %s", stage, f.ended, each.left)
		case !f.wait && each.changed:
			l.Says = fmt.Sprintf("was told %s, which was not waited for", stage)
		case stage == networkingv1.RotateNone:
			l.Says = "no change of the root is going on"
		case each.changed || f.wait:
			l.Says = fmt.Sprintf("%s is complete: every replica of istiod has confirmed it", stage)
		default:
			l.Says = fmt.Sprintf("was told %s before", stage)
		}
		found.Contexts = append(found.Contexts, l)
	}
	if !unknown && !late {
		found.Next = next
	}
	err := f.Write(out, found, func(out io.Writer) {
		for i, root := range plan.Roots {
			what := "Old root"
			if i == len(plan.Roots)-1 {
				what = "New root"
			}
			fmt.Fprintf(out, "%s %s, SHA-256 %s\n", what, terminal.Line(root.Subject.String()), pemcerts.Fingerprint(root))
		}
		found.print(out, false)
	})
	return f.end(err, unknown, late)
}

func (f *flags) end(err error, unknown, wrong bool) error {
	switch {
	case err != nil:
		return err
	case unknown:
		return exit.With(exit.Unknown, nil)
	case wrong:
		return exit.With(exit.Wrong, nil)
	}
	return nil
}

func (o *one) line() line {
	l := line{Context: o.Context}
	if o.Mesh.Name != "" {
		l.VirtualMesh = o.Mesh.String()
	}
	if r := o.Rotation; r != nil && o.err == nil {
		l.Stage, l.Complete, l.NewRoot = r.Stage, r.Complete, r.NewRoot
	}
	return l
}

func (a *answer) print(out io.Writer, withStage bool) {
	for _, l := range a.Contexts {
		about := []string{l.Context, l.VirtualMesh}
		if withStage {
			about = append(about, string(l.Stage))
		}
		about = slices.DeleteFunc(about, func(s string) bool { return s == "" })
		fmt.Fprintf(out, "%s: %s\n", strings.Join(about, ": "), terminal.OneLine(l.Says))
	}
	if a.Next != "" {
		fmt.Fprintf(out, "\nNext: %s\n", a.Next)
	}
}
