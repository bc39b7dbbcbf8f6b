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

type result struct {
	Contexts []contextResult `json:"contexts"`
	// Roots are the SHA-256 (DER), in hexadecimal, of the roots to trust, the new root last.
	Roots []string `json:"roots,omitempty"`
	Next  string   `json:"next,omitempty"`
}

type contextResult struct {
	Context     string                         `json:"context"`
	VirtualMesh string                         `json:"virtualMesh,omitempty"`
	Stage       networkingv1.RootRotationStage `json:"stage,omitempty"`
	Complete    bool                           `json:"complete"`
	NewRoot     string                         `json:"newRoot,omitempty"`
	// Message is the result, the missing step or the problem.
	Message string `json:"says"`
}

const noRootChange = "no root change is in progress"

func (f *flags) printState(out io.Writer, targets []*target) error {
	found := result{Contexts: []contextResult{}}
	unknown, inProgress := false, false
	for _, target := range targets {
		l := target.contextResult()
		switch {
		case target.err != nil:
			unknown = true
			l.Message = terminal.OneLine(target.err.Error())
		case target.Rotation == nil:
			l.Message = noRootChange
		default:
			inProgress = inProgress || !target.Rotation.Complete
			l.Message = target.Rotation.Message
		}
		found.Contexts = append(found.Contexts, l)
	}
	err := f.Write(out, found, func(out io.Writer) { found.print(out, true) })
	return exit.Result(err, unknown, inProgress)
}

func (f *flags) printResult(out io.Writer, stage networkingv1.RootRotation, plan *rotationPlan, targets []*target, next string) error {
	found := result{Contexts: []contextResult{}, Roots: pemcerts.Fingerprints(plan.Roots)}
	unknown, incomplete := false, false
	for i, target := range targets {
		l := target.contextResult()
		switch {
		case f.dryRun && plan.Annotations[i] == nil:
			l.Message = "would stay unchanged"
		case f.dryRun:
			l.Message = fmt.Sprintf("would be set to %s", stage)
		case target.err != nil:
			unknown = true
			l.Message = terminal.OneLine(target.err.Error())
		case target.remaining != "":
			incomplete = true
			l.Message = fmt.Sprintf("%s is not complete %s; waiting for %s", stage, f.waitEnd, target.remaining)
		case !f.wait && target.changed:
			l.Message = fmt.Sprintf("was set to %s, without waiting (--wait=false)", stage)
		case stage == networkingv1.RotateNone:
			l.Message = noRootChange
		case target.changed || f.wait:
			l.Message = fmt.Sprintf("%s is complete: every replica of istiod has confirmed it", stage)
		default:
			l.Message = fmt.Sprintf("is set to %s already", stage)
		}
		found.Contexts = append(found.Contexts, l)
	}
	if !unknown && !incomplete {
		found.Next = next
	}
	err := f.Write(out, found, func(out io.Writer) {
		for i, root := range plan.Roots {
			kind := "Old root"
			if i == len(plan.Roots)-1 {
				kind = "New root"
			}
			fmt.Fprintf(out, "%s %s, SHA-256 %s\n", kind, terminal.Line(root.Subject.String()), pemcerts.Fingerprint(root))
		}
		found.print(out, false)
	})
	return exit.Result(err, unknown, incomplete)
}

func (t *target) contextResult() contextResult {
	l := contextResult{Context: t.Context}
	if t.Mesh.Name != "" {
		l.VirtualMesh = t.Mesh.String()
	}
	if r := t.Rotation; r != nil && t.err == nil {
		l.Stage, l.Complete, l.NewRoot = r.Stage, r.Complete, r.NewRoot
	}
	return l
}

func (a *result) print(out io.Writer, withStage bool) {
	for _, l := range a.Contexts {
		words := []string{l.Context, l.VirtualMesh}
		if withStage {
			words = append(words, string(l.Stage))
		}
		words = append(slices.DeleteFunc(words, func(s string) bool { return s == "" }), terminal.OneLine(l.Message))
		fmt.Fprintln(out, strings.Join(words, ": "))
	}
	if a.Next != "" {
		fmt.Fprintf(out, "\nNext: %s\n", a.Next)
	}
}
