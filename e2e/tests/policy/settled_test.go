// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"
)

// An injected Deployment of Istio's chart needs no second evaluation; what the injection or its words depend on brings it
// back. That nothing settled is changed, refused or warned about, the evaluator checks with each object of the parity tests.
func TestSettled(t *testing.T) {
	for _, name := range []string{"default", "native", "not annotated", "pods"} {
		p := pairOf(t, name, configuration(t, name))
		settled := func(edit func(o, istiod object)) bool {
			o := as(p.engine.Target(), large(t, 250))
			_, spec := podOf(o)
			edit(o, istiodIn(spec))
			outcome, err := p.policy.Create(sent(t, &p, o))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if outcome.Settled && !outcome.Silent {
				t.Errorf("%s: settled, and not silent", name)
			}
			return outcome.Settled
		}
		expected := name == "default" || name == "native"
		if got := settled(func(_, _ object) {}); got != expected {
			t.Errorf("%s: settled %t, want %t", name, got, expected)
		}
		for what, edit := range map[string]func(o, istiod object){
			"built-in CA": func(_, istiod object) { appended(istiod, "env", object{"name": "ENABLE_CA_SERVER", "value": "false"}) },
			"external CA": func(_, istiod object) { appended(istiod, "env", object{"name": "EXTERNAL_CA", "value": "x"}) },
			"roots": func(_, istiod object) {
				appended(istiod, "env", object{"name": "ISTIO_MULTIROOT_MESH", "value": "true"})
			},
			"ids":             func(_, istiod object) { istiod["securityContext"] = object{"runAsUser": int64(1337)} },
			"opt-out":         func(o, _ object) { meta(o, "annotations", "istiod-agent.io/inject", "false") },
			"opt-out's value": func(o, _ object) { meta(o, "labels", "istiod-agent.io/inject", "no") },
		} {
			if settled(edit) {
				t.Errorf("%s, %s: settled", name, what)
			}
		}
	}
}
