// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/istiod-agent/istiod-agent/patches"
)

// csi is a volume source that is not of Istio's chart, as one person and another would write it.
var csi = []string{
	"csi: {driver: secrets-store.csi.k8s.io, readOnly: true, volumeAttributes: {secretProviderClass: mesh-ca}}",
	"csi: {volumeAttributes: {secretProviderClass: mesh-ca}, readOnly: true, driver: secrets-store.csi.k8s.io}",
}

const secret = "secret: {secretName: cacerts, optional: true}"

// templateOf is the pod template of a Deployment.
func templateOf(t *testing.T, object []byte) []byte {
	t.Helper()
	var d struct {
		Spec struct{ Template json.RawMessage }
	}
	if err := json.Unmarshal(object, &d); err != nil {
		t.Fatal(err)
	}
	return d.Spec.Template
}

// A server-side apply of the same manifest merges its source into the volume. It restarts nothing, whoever applies what.
func TestNoteOfReappliedSources(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{"annotated": "", "not annotated": "annotate: false"} {
		i := injector(t, config)
		object := edit(t, secret, csi[0])
		result := i.Inject(patches.Deployment, object)
		if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "volume cacerts (csi)") {
			t.Errorf("%s: warnings %q", name, result.Warnings)
		}
		injected := apply(t, object, result.Operations)
		for _, source := range append(csi, "hostPath: {path: /ca}", "configMap: {name: ca}") {
			key, value, _ := strings.Cut(source, ":")
			merged := []byte(strings.Replace(string(injected), `"name":"cacerts","emptyDir":{`, `"name":"cacerts","`+key+`":`+string(toJSON(t, value))+`,"emptyDir":{`, 1))
			if same(t, merged, injected) {
				t.Fatalf("the merge did not take place: %s", injected)
			}
			again := inject(t, i, patches.Deployment, merged)
			if !same(t, templateOf(t, again), templateOf(t, injected)) {
				t.Errorf("%s, %s: got template %s\nwant %s", name, source, templateOf(t, again), templateOf(t, injected))
			}
			if key == "csi" && !same(t, again, injected) {
				t.Errorf("%s: the note is not canonical: got %s\nwant %s", name, again, injected)
			}
			if back := apply(t, again, patches.Uninject(patches.Deployment, again).Operations); !same(t, back, edit(t, secret, source)) {
				t.Errorf("%s, %s: got back %s", name, source, back)
			}
		}
	}
}

// A note of an earlier version stands on the pod template. It is taken over without a change of the template, and is
// gone once that changes anyway.
func TestNoteMigration(t *testing.T) {
	t.Parallel()
	object := edit(t, secret, csi[0])
	injected := inject(t, injector(t, ""), patches.Deployment, object)
	var d appsv1.Deployment
	if err := json.Unmarshal(injected, &d); err != nil {
		t.Fatal(err)
	}
	note, err := json.Marshal(d.Annotations[patches.OriginalAnnotation])
	if err != nil {
		t.Fatal(err)
	}
	before := change(t, injected, `{"metadata":{"annotations":null},"spec":{"template":{"metadata":{"annotations":{"istiod-agent.io/original":`+string(note)+`}}}}}`)
	if state, _ := injector(t, "").Inspect(patches.Deployment, before); state != patches.StateInjected {
		t.Errorf("before the note has moved: %s", state)
	}
	moved := inject(t, injector(t, ""), patches.Deployment, before)
	if !same(t, templateOf(t, moved), templateOf(t, before)) || !strings.Contains(string(moved), `"annotations":{"istiod-agent.io/original"`) {
		t.Errorf("got %s", moved)
	}
	later := inject(t, injector(t, "agent: {image: later}"), patches.Deployment, moved)
	if strings.Contains(string(templateOf(t, later)), patches.OriginalAnnotation) {
		t.Errorf("the old note stays: %s", templateOf(t, later))
	}
	for _, injected := range [][]byte{before, moved, later} {
		if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
			t.Errorf("got back %s", back)
		}
	}
}

// Whatever was taken out by hand, the injection's own volume never becomes the original.
func TestNoteNeverHoldsInjectedVolume(t *testing.T) {
	t.Parallel()
	containers := `{"spec":{"template":{"spec":{"initContainers":null}}}}`
	for name, hands := range map[string][]string{
		"both containers":                 {containers},
		"and the annotations":             {containers, `{"metadata":{"annotations":null},"spec":{"template":{"metadata":{"annotations":null}}}}`},
		"and the pod template's metadata": {containers, `{"metadata":{"annotations":null},"spec":{"template":{"metadata":null}}}`},
	} {
		for source, promised := range map[string]string{secret: "Secret cacerts", csi[0]: "volume cacerts (csi)"} {
			if name != "both containers" {
				promised = "Secret cacerts" // nothing is left of the note
			}
			i := injector(t, "")
			injected := inject(t, i, patches.Deployment, edit(t, secret, source))
			edited := change(t, injected, hands[0])
			edited = []byte(strings.Replace(string(edited), `,{"name":"istiod-agent",`, `,{"name":"removed",`, 1))
			for _, hand := range hands[1:] {
				edited = change(t, edited, hand)
			}
			again := inject(t, i, patches.Deployment, edited)
			result := i.Inject(patches.Deployment, optOut(t, again))
			back := string(apply(t, optOut(t, again), result.Operations))
			if strings.Contains(back, `"sizeLimit"`) || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], promised) {
				t.Errorf("%s, %s: warned %q, got %s", name, source, result.Warnings, back)
			}
		}
	}
}

// A volume like the injection's own, but another's, leaves no note that the next injection could not read.
func TestNoteOfInMemoryVolume(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	object := edit(t, secret, "emptyDir: {medium: Memory, sizeLimit: 5Mi}")
	injected := inject(t, i, patches.Deployment, object)
	if strings.Contains(string(injected), "5Mi") {
		t.Errorf("it is noted: %s", injected)
	}
}

// What cannot be restored is said.
func TestUnreadableNote(t *testing.T) {
	t.Parallel()
	injected := inject(t, injector(t, ""), patches.Deployment, edit(t))
	for _, note := range []string{
		`{\"volume\":{\"name\":\"cacerts\",\"emptyDir\":{\"medium\":\"Memory\",\"sizeLimit\":\"1Mi\"}}}`, // an earlier version's
		`{\"volume\":{\"NAME\":\"cacerts\",\"csi\":{}}}`, `{\"volume\":{\"name\":\"cacerts\"}}`, `{\"volume\":{\"name\":\"cacerts\",\"csi\":{},\"secret\":{}}}`,
		"{", `{\"volume\":5}`, `{\"volume\":{\"csi\":{}}}`, `[]`,
	} {
		object := optOut(t, change(t, injected, `{"metadata":{"annotations":{"istiod-agent.io/original":"`+note+`"}}}`))
		result := injector(t, "").Inject(patches.Deployment, object)
		back := string(apply(t, object, result.Operations))
		if !strings.Contains(strings.Join(result.Warnings, ""), "cannot be read") || !strings.Contains(back, `"secretName":"cacerts"`) {
			t.Errorf("%s: warned %q, got %s", note, result.Warnings, back)
		}
		if removal := patches.Uninject(patches.Deployment, object); !strings.Contains(strings.Join(removal.Warnings, ""), "cannot be read") {
			t.Errorf("%s: uninject warns %q", note, removal.Warnings)
		}
	}
}

// A volume of any size can be replaced; what is too large to be noted is said.
func TestNoteOfLargeVolume(t *testing.T) {
	t.Parallel()
	object := edit(t, secret, "projected: {sources: [{secret: {name: "+strings.Repeat("a", 40<<10)+"}}]}")
	result := injector(t, "").Inject(patches.Deployment, object)
	if result.Reason != patches.Injected || !strings.Contains(strings.Join(result.Warnings, ""), "too large to be noted") {
		t.Errorf("%s with warnings %q", result.Reason, result.Warnings)
	}
	if after := apply(t, object, result.Operations); len(after) > 8<<10 {
		t.Errorf("%d bytes", len(after))
	}
}
