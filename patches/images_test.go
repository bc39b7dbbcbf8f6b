// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"testing"

	"github.com/istiod-agent/istiod-agent/patches"
)

// Of the images that an agent's container may have beside ours, another publisher's agent is put right, as a re-apply of
// the guide's file merges it in; what mirrors and people make of ours stays.
func TestImage(t *testing.T) {
	t.Parallel()
	const ours = "ghcr.io/istiod-agent/istiod-agent:0.1.0"
	for image, test := range map[string]struct{ current, additions bool }{
		ours: {true, true},
		"mirror.internal/ghcr.io/istiod-agent/istiod-agent:0.1.0":  {true, true},
		"mirror.internal:5000/istiod-agent/istiod-agent:0.1.0":     {true, true},
		"ghcr.io/istiod-agent/istiod-agent:0.1.0@sha256:0123":      {true, true},
		"mirror.internal/istiod-agent/istiod-agent@sha256:0123":    {true, true},
		"mirror.internal/istiod-agent:0.1.0":                       {true, false},
		"mirror.internal/ghcr.io-istiod-agent-istiod-agent:pinned": {true, false},
		"gcr.io/gloo-mesh/istiod-agent:1.2.0":                      {false, false},
		"gcr.io/gloo-mesh/istiod-agent":                            {false, false},
		"":                                                         {true, false},
		"@":                                                        {true, false}, ":": {true, false}, "/": {true, false},
	} {
		for config, stays := range map[string]bool{"": test.current, "annotate: false\n": test.additions} {
			i := injector(t, config+"agent: {image: '"+ours+"'}")
			injected := inject(t, i, patches.Deployment, edit(t))
			theirs := mutated(t, patches.Deployment, injected, func(c map[string]any) { c["image"] = image })
			result := i.Inject(patches.Deployment, theirs)
			if got := len(result.Operations) == 0; got != stays {
				t.Errorf("%q with %q: stays: %t, want %t", image, config, got, stays)
			}
			if !stays && !same(t, apply(t, theirs, result.Operations), injected) {
				t.Errorf("%q with %q: not put right: %v", image, config, result.Operations)
			}
		}
	}
}
