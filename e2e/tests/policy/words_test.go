// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/patches"
)

// answer is what a decision says: the reason in the audit log, the message of a refusal, and warnings.
type answer struct {
	reason, refusal string
	warnings        []string
}

// answerOf the engine, as the webhook writes it.
func answerOf(result patches.Result) answer {
	a := answer{reason: string(result.Reason)}
	if result.Denied() {
		a.refusal = "istiod-agent: " + string(result.Reason) + ": " + result.Message
	}
	for _, warning := range result.Warnings {
		a.warnings = append(a.warnings, "istiod-agent: "+string(result.Reason)+": "+warning)
	}
	return a
}

// created is the answer to an object's creation without the documented differences in words.
func (a answer) created(sent object) answer {
	// The policy that speaks sees the object after the injection only.
	known := func(text string) string {
		return strings.NewReplacer(string(patches.AlreadyInjected), string(patches.Injected), "this webhook did not", "this policy did not").Replace(text)
	}
	a.reason, a.refusal = known(a.reason), known(a.refusal)
	var warnings []string
	for _, warning := range a.warnings {
		if strings.Contains(warning, ": the agent is removed: ") || strings.Contains(warning, "is replaced: istiod no longer reads it") && hasNote(sent) {
			continue
		}
		warnings = append(warnings, known(warning))
	}
	slices.Sort(warnings)
	a.warnings = slices.Compact(warnings) // a webhook that is asked again warns again
	return a
}

// printable leaves out the warnings that the API server would not pass on as they are.
func (a answer) printable() answer {
	a.warnings = slices.DeleteFunc(slices.Clone(a.warnings), func(text string) bool {
		return len(text) > bounded.MaxMessage || bounded.Plain(text) != text || strings.ContainsAny(text, "\"\\") && strings.Contains(text, "\\")
	})
	if a.refusal != bounded.Plain(a.refusal) {
		a.refusal, _, _ = strings.Cut(a.refusal, "\n")
	}
	return a
}

func hasNote(o object) bool {
	template, _ := podOf(o)
	for _, meta := range []any{o["metadata"], template["metadata"]} {
		m, _ := meta.(object)
		annotations, _ := m["annotations"].(object)
		if annotations[patches.OriginalAnnotation] != nil {
			return true
		}
	}
	return false
}

// notShown stands for text that the policy does not show; the webhook's answer has it, or a part of it.
const notShown = "(long or unprintable)"

func differentWords(engines, policys answer) string {
	same := func(a, b string) bool {
		shown, _, cut := strings.Cut(b, notShown)
		return a == b || cut && strings.HasPrefix(a, shown)
	}
	equal := engines.reason == policys.reason && same(engines.refusal, policys.refusal) && slices.EqualFunc(engines.warnings, policys.warnings, same)
	if equal {
		return ""
	}
	return fmt.Sprintf("words (-engine +policy)\n%s", cmp.Diff(engines, policys, cmp.AllowUnexported(answer{})))
}
