// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	evanphx "github.com/evanphx/json-patch/v5"

	"github.com/istiod-agent/istiod-agent/patches"
)

// sansEmpty drops empty lists, empty maps and nulls, which Kubernetes does not
// tell from absent ones.
func sansEmpty(value any) any {
	switch value := value.(type) {
	case map[string]any:
		kept := map[string]any{}
		for key, member := range value {
			if member = sansEmpty(member); member != nil {
				kept[key] = member
			}
		}
		if len(kept) > 0 {
			return kept
		}
		return nil
	case []any:
		if len(value) == 0 {
			return nil
		}
		kept := make([]any, len(value))
		for i := range value {
			kept[i] = sansEmpty(value[i])
		}
		return kept
	default:
		return value
	}
}

func same(t testing.TB, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Fatal(err)
	}
	return reflect.DeepEqual(sansEmpty(x), sansEmpty(y))
}

// volumes that an istiod may have had before, with what its pod spec holds else.
var befores = map[string][]string{
	"the chart's Secret":             nil,
	"the chart's Secret, as stored":  {"optional: true}}", "optional: true, defaultMode: 420}}", "      containers:", "      dnsPolicy: ClusterFirst\n      schedulerName: default-scheduler\n      containers:"},
	"a default mode written by hand": {"optional: true}}", "optional: true, defaultMode: 420}}"},
	"another Secret":                 {"secretName: cacerts", "secretName: my-ca"},
	"a projected volume":             {"secret: {secretName: cacerts, optional: true}", "projected: {sources: [{secret: {name: my-ca}}]}"},
	"a volume source of tomorrow":    {"secret: {secretName: cacerts, optional: true}", "certificateAuthority: {issuer: vault}"},
	"an emptyDir":                    {"secret: {secretName: cacerts, optional: true}", "emptyDir: {}"},
	"an emptyDir in memory":          {"secret: {secretName: cacerts, optional: true}", "emptyDir: {medium: Memory}"},
	"two volumes of an injection":    {"      - {name: local-certs, emptyDir: {medium: Memory}}\n", ""},
	"a volume after it":              {"optional: true}}", "optional: true}}\n      - {name: last, emptyDir: {}}"},
	"another name":                   {"- {name: cacerts, mountPath", "- {name: my-ca, mountPath", "- {name: cacerts, secret", "- {name: my-ca, secret"},
	"no volume":                      {"      - {name: cacerts, secret: {secretName: cacerts, optional: true}}\n", ""},
	"no volumes at all":              {"      volumes:\n      - {name: local-certs, emptyDir: {medium: Memory}}\n      - {name: cacerts, secret: {secretName: cacerts, optional: true}}\n", ""},
	"no mount":                       {"        - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}\n", ""},
	"no mounts at all":               {"        volumeMounts:\n        - {name: local-certs, mountPath: /var/run/secrets/istio-dns}\n        - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}\n", ""},
	"a mount with a slash too many":  {"/etc/cacerts,", "/etc/cacerts/,"},
	"a writable mount":               {", readOnly: true}", "}"},
	"annotations of others":          {"metadata: {labels: {app: istiod}}", "metadata: {annotations: {prometheus.io/port: '15014'}}"},
	"a template without metadata":    {"    metadata: {labels: {app: istiod}}\n", ""},
	"other init containers":          {"      containers:", "      initContainers: [{name: first}]\n      containers:"},
	"ids of its own":                 {"        image: pilot", "        image: pilot\n        securityContext: {runAsUser: 1337, runAsGroup: 1337}"},
	"no variables":                   {"        env: [{name: PILOT_CERT_PROVIDER, value: istiod}]\n", ""},
	"a multi-root mesh":              {"value: istiod}]", "value: istiod}, {name: ISTIO_MULTIROOT_MESH, value: 'true'}]"},
	"no multi-root mesh":             {"value: istiod}]", "value: istiod}, {name: ISTIO_MULTIROOT_MESH, value: 'false'}]"},
	"a ROOT_CA_DIR of its own":       {"value: istiod}]", "value: istiod}, {name: ROOT_CA_DIR, value: ./etc/cacerts}]"},
	"our ROOT_CA_DIR":                {"value: istiod}]", "value: istiod}, {name: ROOT_CA_DIR, value: /etc/cacerts}]"},
	"envFrom and a workingDir":       {"        image: pilot", "        image: pilot\n        workingDir: /x\n        envFrom: [{secretRef: {name: a}}]"},
	"a helper that mounts the path":  {"      volumes:", "      - {name: helper, volumeMounts: [{name: local-certs, mountPath: /etc/cacerts}]}\n      volumes:"},
	"fields of tomorrow":             {"        image: pilot", "        image: pilot\n        tomorrow: {deeply: [{unknown: 1.50}]}"},
}

func TestUninjectIsInverse(t *testing.T) {
	t.Parallel()
	for name, edits := range befores {
		for _, config := range []string{"", "sidecar: native", "target: pods", "target: pods\nsidecar: native", "multiRootMesh: true", "multiRootMesh: true\ntarget: pods"} {
			t.Run(name+"/"+config, func(t *testing.T) {
				t.Parallel()
				object, kind := edit(t, edits...), patches.Deployment
				if strings.Contains(config, "pods") {
					object, kind = podOf(t, object), patches.Pod
				}
				injected := inject(t, injector(t, config), kind, object)

				removal := patches.Uninject(kind, injected)
				if removal.Reason != "Removed" {
					t.Fatalf("got %s: %s", removal.Reason, removal.Message)
				}
				if back := apply(t, injected, removal.Operations); !same(t, back, object) {
					t.Errorf("got back  %s\nwas       %s\ninjected  %s", back, object, injected)
				}
				if nothing := patches.Uninject(kind, object); nothing.Reason != "NotInjected" || len(nothing.Operations) > 0 {
					t.Errorf("an object never injected: %s with %v", nothing.Reason, nothing.Changes)
				}
			})
		}
	}
}

// podOf is the Pod that a Deployment's template makes.
func podOf(t *testing.T, deployment []byte) []byte {
	t.Helper()
	var tree struct {
		Spec struct{ Template map[string]any }
	}
	if err := json.Unmarshal(deployment, &tree); err != nil {
		t.Fatal(err)
	}
	pod := tree.Spec.Template
	pod["apiVersion"], pod["kind"] = "v1", "Pod"
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A change of the configuration re-renders; what stood there before the first
// injection is still what comes back.
func TestUninjectAfterConfigurationChange(t *testing.T) {
	t.Parallel()
	configs := []string{"", "cacerts: {sizeLimit: 2Mi}", "sidecar: native", `annotate: false`, "agent: {image: other}", ""}
	for name, edits := range befores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := edit(t, edits...)
			injected := object
			for _, config := range configs {
				injected = inject(t, injector(t, config), patches.Deployment, injected)
			}
			if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
				t.Errorf("got back  %s\nwas       %s", back, object)
			}
		})
	}
}

// A server-side apply of the chart merges its Secret into the injected volume.
func TestMergedVolumeSources(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	for _, secret := range []string{"secretName: cacerts, optional: true", "secretName: my-ca"} {
		object := edit(t, "secretName: cacerts, optional: true", secret)
		injected := inject(t, i, patches.Deployment, object)
		merged := []byte(strings.Replace(string(injected), `"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}`,
			`"secret":`+string(toJSON(t, "{"+secret+"}"))+`,"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}`, 1))
		if same(t, merged, injected) {
			t.Fatal("the merge did not take place")
		}
		again := inject(t, i, patches.Deployment, merged)
		if !same(t, again, injected) {
			t.Errorf("got %s\nwant %s", again, injected)
		}
		// Opting out in the same apply.
		optedOut := optOut(t, merged)
		result := i.Inject(patches.Deployment, optedOut)
		if back := apply(t, optedOut, result.Operations); result.Reason != patches.OptedOut || !strings.Contains(string(back), `"secretName"`) || strings.Contains(string(back), "istiod-agent-init") || strings.Contains(string(back), `"sizeLimit"`) {
			t.Errorf("opted out: %s, got %s", result.Reason, back)
		}
	}
}

// An istiod that turns its CA off needs no agent. Whichever half of the injection its owner's upgrade leaves, all of it goes:
// the API server refuses the one half, and the other does not start.
func TestCATurnedOff(t *testing.T) {
	t.Parallel()
	const (
		provider = "{name: PILOT_CERT_PROVIDER, value: istiod}"
		on, off  = `{"name":"ENABLE_CA_SERVER","value":"true"}`, `{"name":"ENABLE_CA_SERVER","value":"false"}`
		memory   = `"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}`
		chart    = `"secret":{"optional":true,"secretName":"cacerts"}`
	)
	for name, volume := range map[string]string{
		"only the variable changes":      memory,
		"a server-side apply (Helm 4)":   chart + "," + memory,
		"a client-side upgrade (Helm 3)": chart,
	} {
		for _, config := range []string{"", "sidecar: native", "annotate: false", "multiRootMesh: true", "target: pods"} {
			t.Run(name+"/"+config, func(t *testing.T) {
				t.Parallel()
				i, kind := injector(t, config), patches.Deployment
				object, want := edit(t, provider, provider+", "+on), edit(t, provider, provider+", "+off)
				if config == "target: pods" {
					object, want, kind = podOf(t, object), podOf(t, want), patches.Pod
				}
				injected := string(inject(t, i, kind, object))
				if !strings.Contains(injected, memory) || !strings.Contains(injected, on) {
					t.Fatalf("got %s", injected)
				}
				upgraded := []byte(strings.NewReplacer(on, off, memory, volume).Replace(injected))
				result := i.Inject(kind, upgraded)
				if result.Reason != patches.NoBuiltInCA || !strings.Contains(strings.Join(result.Warnings, "\n"), "the agent is removed: ") {
					t.Errorf("%s with warnings %q", result.Reason, result.Warnings)
				}
				after := apply(t, upgraded, result.Operations)
				if !same(t, after, want) {
					t.Errorf("got  %s\nwant %s", after, want)
				}
				if again := i.Inject(kind, after); again.Reason != patches.NoBuiltInCA || len(again.Operations) > 0 || len(again.Warnings) != 1 {
					t.Errorf("fed back: %s with %v and warnings %q", again.Reason, again.Changes, again.Warnings)
				}
			})
		}
	}

	// An agent from another source stays.
	theirs := edit(t, provider, off, "      containers:", "      initContainers: [{name: istiod-agent-init}]\n      containers:\n      - {name: istiod-agent}")
	if result := injector(t, "").Inject(patches.Deployment, theirs); result.Reason != patches.NoBuiltInCA || len(result.Operations) > 0 {
		t.Errorf("another's agent: %s with %v", result.Reason, result.Changes)
	}
}

// A volume that somebody has put back already is left as it is.
func TestUninjectKeepsRestoredVolume(t *testing.T) {
	t.Parallel()
	injected := inject(t, injector(t, ""), patches.Deployment, edit(t))
	reverted := []byte(strings.Replace(string(injected), `"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}`, `"secret":{"secretName":"mine"}`, 1))
	back := apply(t, reverted, patches.Uninject(patches.Deployment, reverted).Operations)
	if !strings.Contains(string(back), `"secret":{"secretName":"mine"}`) {
		t.Errorf("got %s", back)
	}
}

// By hand, per Gloo Mesh's guide, the other source is written as null.
func TestNullVolumeSource(t *testing.T) {
	t.Parallel()
	byHand := edit(t, "secret: {secretName: cacerts, optional: true}", "secret: null, emptyDir: {medium: Memory}",
		"      containers:", "      initContainers: [{name: istiod-agent-init}]\n      containers:\n      - {name: istiod-agent}")
	injected := inject(t, injector(t, ""), patches.Deployment, byHand)
	if strings.Contains(string(injected), `\"volume\"`) {
		t.Errorf("the null is kept: %s", injected)
	}
	back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations)
	if !same(t, back, edit(t)) {
		t.Errorf("got %s", back)
	}
}

// An opt-out takes out what was injected here, with or without annotations.
func TestOptOut(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"", "annotate: false", "sidecar: native"} {
		i, object := injector(t, config), edit(t)
		optedOut := optOut(t, inject(t, i, patches.Deployment, object))
		result := i.Inject(patches.Deployment, optedOut)
		want := optOut(t, object)
		if back := apply(t, optedOut, result.Operations); result.Reason != patches.OptedOut || len(result.Warnings) != 1 || !same(t, back, want) {
			t.Errorf("%q: %s with warnings %q, got %s", config, result.Reason, result.Warnings, back)
		}
	}
}

// optOut annotates an object.
func optOut(t *testing.T, object []byte) []byte {
	t.Helper()
	return change(t, object, `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}}}`)
}

// change merges into an object (RFC 7386).
func change(t *testing.T, object []byte, merge string) []byte {
	t.Helper()
	changed, err := evanphx.MergePatch(object, []byte(merge))
	if err != nil {
		t.Fatal(err)
	}
	return changed
}
