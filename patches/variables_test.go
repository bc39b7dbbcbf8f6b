// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// istiod takes other roots while it runs where it, or the configuration, says so; the agent is told what istiod does.
func TestMultiRootVariable(t *testing.T) {
	t.Parallel()
	const (
		chart = "{name: PILOT_CERT_PROVIDER, value: istiod}"
		itsOn = chart + ", {name: ISTIO_MULTIROOT_MESH, value: \"true\"}"
		off   = chart + ", {name: ISTIO_MULTIROOT_MESH, value: \"false\"}"
		from  = chart + ", {name: ISTIO_MULTIROOT_MESH, valueFrom: {configMapKeyRef: {name: a, key: b}}}"
	)
	for name, test := range map[string]struct {
		env, config   string
		istiod, agent string // what they have, "" for nothing
		added, warned bool
	}{
		"nothing said":                       {chart, "", "", "", false, false},
		"the configuration":                  {chart, "multiRootMesh: true", "true", "true", true, false},
		"the configuration, native":          {chart, "multiRootMesh: true\nsidecar: native", "true", "true", true, false},
		"istiod itself":                      {itsOn, "", "true", "true", false, false},
		"both":                               {itsOn, "multiRootMesh: true", "true", "true", false, false},
		"istiod against the configuration":   {off, "multiRootMesh: true", "false", "", false, true},
		"istiod itself, against it":          {off, "", "false", "", false, false},
		"istiod by what cannot be read here": {from, "multiRootMesh: true", "", "", false, true},
		"the agent's own setting counts for the agent": {
			chart, "multiRootMesh: true\nagent: {env: [{name: ISTIO_MULTIROOT_MESH, value: \"false\"}]}", "true", "false", true, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := edit(t, "env: ["+chart+"]", "env: ["+test.env+"]")
			result := injector(t, test.config).Inject(patches.Deployment, object)
			injected := apply(t, object, result.Operations)
			var deployment appsv1.Deployment
			if err := json.Unmarshal(injected, &deployment); err != nil {
				t.Fatal(err)
			}
			spec := deployment.Spec.Template.Spec
			for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
				want := test.agent
				if c.Name == patches.IstiodContainer {
					want = test.istiod
				}
				if got := value(c); got != want {
					t.Errorf("%s has %q, want %q", c.Name, got, want)
				}
			}
			note := deployment.Annotations[patches.OriginalAnnotation]
			if strings.Contains(note, "multiRootAdded") != test.added {
				t.Errorf("the note is %q", note)
			}
			if warned := strings.Contains(strings.Join(result.Warnings, "\n"), "which overrides multiRootMesh"); warned != test.warned {
				t.Errorf("warnings %q", result.Warnings)
			}
			// What an earlier configuration has set goes when it is not asked for any more.
			plainly := apply(t, injected, injector(t, "").Inject(patches.Deployment, injected).Operations)
			if want := apply(t, object, injector(t, "").Inject(patches.Deployment, object).Operations); !same(t, plainly, want) {
				t.Errorf("without the option: got %s\nwant %s", plainly, want)
			}
		})
	}
}

// An injection has added the variable, and then its owner sets it: from then on it is the owner's.
func TestMultiRootVariableTakenOver(t *testing.T) {
	t.Parallel()
	const before, added = `{"name":"ROOT_CA_DIR","value":"/etc/cacerts"},`, `{"name":"ISTIO_MULTIROOT_MESH","value":"true"}`
	on, off := injector(t, "multiRootMesh: true"), injector(t, "")
	for name, owners := range map[string]string{
		"false":       `{"name":"ISTIO_MULTIROOT_MESH","value":"false"}`,
		"valueFrom":   `{"name":"ISTIO_MULTIROOT_MESH","valueFrom":{"configMapKeyRef":{"name":"a","key":"b"}}}`,
		"a reference": `{"name":"ISTIO_MULTIROOT_MESH","value":"$(X)"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const chart = "{name: PILOT_CERT_PROVIDER, value: istiod}"
			object := edit(t, chart, chart+", "+owners) // as an istiod that was never injected
			injected := string(inject(t, on, patches.Deployment, edit(t)))
			changed := []byte(strings.Replace(injected, before+added, before+owners, 1))
			if string(changed) == injected {
				t.Fatalf("istiod has no such variables in %s", injected)
			}

			result := on.Inject(patches.Deployment, changed)
			if !strings.Contains(strings.Join(result.Warnings, "\n"), "which overrides multiRootMesh") {
				t.Errorf("warnings %q", result.Warnings)
			}
			again := apply(t, changed, result.Operations)
			var deployment appsv1.Deployment
			if err := json.Unmarshal(again, &deployment); err != nil {
				t.Fatal(err)
			}
			spec := deployment.Spec.Template.Spec
			for _, c := range append(slices.Clone(spec.InitContainers), spec.Containers...) {
				if got := value(c); c.Name != patches.IstiodContainer && got != "" {
					t.Errorf("%s has %q", c.Name, got)
				}
			}
			if note := deployment.Annotations[patches.OriginalAnnotation]; strings.Contains(note, "multiRootAdded") {
				t.Errorf("the note is %q", note)
			}

			for what, stored := range map[string][]byte{
				"at once":        changed,
				"injected again": again,
				"the option off": apply(t, changed, off.Inject(patches.Deployment, changed).Operations),
			} {
				if back := apply(t, stored, patches.Uninject(patches.Deployment, stored).Operations); !same(t, back, object) {
					t.Errorf("%s: got back %s\nwant %s", what, back, object)
				}
			}
		})
	}
}

func value(c corev1.Container) (value string) {
	for _, variable := range c.Env {
		if variable.Name == istio.MultiRootVariable {
			value = variable.Value
		}
	}
	return value
}
