// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/patches"
)

// everythingOthersDo to a container of the agent's: a mirror, a pull policy, capabilities, limits, ids, a variable, a mount.
func everythingOthersDo(c map[string]any) {
	c["image"] = "mirror.internal/" + c["image"].(string)
	c["imagePullPolicy"] = "Always"
	c["resources"] = map[string]any{"requests": map[string]any{"cpu": "20m"}, "limits": map[string]any{"cpu": "1", "memory": "128Mi"}}
	c["securityContext"] = map[string]any{"capabilities": map[string]any{"drop": []any{"ALL", "NET_RAW"}}, "runAsUser": 1234.0, "runAsNonRoot": true}
	c["env"] = append(c["env"].([]any), map[string]any{"name": "HTTPS_PROXY", "value": "http://proxy:3128"})
	c["volumeMounts"] = append(c["volumeMounts"].([]any), map[string]any{"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true})
}

// mutated calls mutate with each of the agent's containers.
func mutated(t *testing.T, kind patches.Kind, object []byte, mutate func(container map[string]any)) []byte {
	t.Helper()
	var tree map[string]any
	if err := json.Unmarshal(object, &tree); err != nil {
		t.Fatal(err)
	}
	spec := tree["spec"].(map[string]any)
	if kind == patches.Deployment {
		spec = spec["template"].(map[string]any)["spec"].(map[string]any)
	}
	for _, list := range []string{"containers", "initContainers"} {
		containers, _ := spec[list].([]any)
		for _, c := range containers {
			if c := c.(map[string]any); strings.HasPrefix(c["name"].(string), patches.AgentContainer) {
				mutate(c)
			}
		}
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const glooForm = "annotate: false\ncacerts: {sizeLimit: '0'}\nagent: {securityContext: {}, resources: {}, vaultToken: {}}"

// What other webhooks do to the agent's containers stays when the API server asks again.
func TestReinvocationKeepsWhatOthersAdded(t *testing.T) {
	t.Parallel()
	for _, config := range []string{"", "sidecar: native", glooForm} {
		for _, target := range []string{"target: deployments\n", "target: pods\n"} {
			i := injector(t, target+config)
			object, kind := edit(t), i.Target()
			if kind == patches.Pod {
				object = podOf(t, object)
			}
			theirs := mutated(t, kind, inject(t, i, kind, object), everythingOthersDo)
			if result := i.Inject(kind, theirs); result.Reason != patches.AlreadyInjected {
				t.Errorf("%s%s: got %s: %s", target, config, result.Reason, result.Message)
			}
			if state, result := i.Inspect(kind, theirs); state != patches.StateInjected {
				t.Errorf("%s%s: inspected as %s: %s", target, config, state, result.Message)
			}
		}
	}
}

// A Pod with the digest of another configuration is brought up to this one, and keeps what others added; a Deployment
// with it is injected anew.
func TestAnotherDigest(t *testing.T) {
	t.Parallel()
	earlier, now := "agent: {image: 'ghcr.io/agent:v1', resources: {}}", "agent: {image: 'ghcr.io/agent:v2', env: [{name: NEW, value: x}]}"
	for _, target := range []string{"target: deployments\n", "target: pods\n"} {
		i := injector(t, target+now)
		object, kind := edit(t), i.Target()
		if kind == patches.Pod {
			object = podOf(t, object)
		}
		theirs := mutated(t, kind, inject(t, injector(t, target+earlier), kind, object), everythingOthersDo)
		got := podSpec(t, kind, inject(t, i, kind, theirs))
		agent, err := json.Marshal(item(t, got, "containers", "istiod-agent"))
		if err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]bool{
			`"image":"ghcr.io/agent:v2"`: true, `"NEW"`: true, `"sidecar"`: true,
			"kube-api-access-x": kind == patches.Pod, "HTTPS_PROXY": kind == patches.Pod, "NET_RAW": false, `"drop":["ALL"]`: true, "1234": kind == patches.Pod,
		} {
			if strings.Contains(string(agent), text) != want {
				t.Errorf("%s: %s is there: %t, want %t: %s", kind, text, !want, want, agent)
			}
		}
	}
	mirrored := mutated(t, patches.Pod, inject(t, injector(t, "target: pods\n"+earlier), patches.Pod, podOf(t, edit(t))), func(c map[string]any) {
		c["image"] = "mirror.internal/ghcr.io/agent:v1"
	})
	agent := item(t, podSpec(t, patches.Pod, inject(t, injector(t, "target: pods\n"+earlier+"\nmultiRootMesh: true"), patches.Pod, mirrored)), "containers", "istiod-agent")
	if agent["image"] != "mirror.internal/ghcr.io/agent:v1" {
		t.Errorf("the mirror's image became %s", agent["image"])
	}
}

// Of the images that an agent's container may have beside ours, another publisher's agent is put right, as a re-apply of
// the guide's file merges it in; what mirrors and people make of ours stays.
func TestImages(t *testing.T) {
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
func TestReappliedSourcesRestartNothing(t *testing.T) {
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
func TestTheNoteMoves(t *testing.T) {
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
func TestOurVolumeIsNeverTheOriginal(t *testing.T) {
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

// What cannot be restored is said.
func TestANoteThatCannotBeRead(t *testing.T) {
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

// Its owner moves istiod's mount to another volume: that one is the agent's now, and the first one its owner's again.
func TestTheMountMoves(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	injected := string(inject(t, i, patches.Deployment, edit(t)))
	moved := strings.Replace(injected, `"mountPath":"/etc/cacerts","name":"cacerts","readOnly":true`, `"mountPath":"/etc/cacerts","name":"my-ca","readOnly":true`, 1)
	moved = strings.Replace(moved, `"volumes":[`, `"volumes":[{"name":"my-ca","secret":{"secretName":"my-ca"}},`, 1)
	for name, test := range map[string]struct{ object, cacerts string }{
		"the manifest still has the first": {strings.Replace(moved, `"name":"cacerts","emptyDir":{`, `"name":"cacerts","secret":{"secretName":"cacerts","optional":true},"emptyDir":{`, 1), "secret"},
		"the manifest has it no more":      {moved, ""},
		"another container uses it":        {strings.Replace(moved, `"containers":[`, `"containers":[{"name":"x","volumeMounts":[{"name":"cacerts","mountPath":"/x"}]},`, 1), "secret"},
	} {
		if test.object == injected {
			t.Fatalf("%s: nothing was edited in %s", name, injected)
		}
		after := inject(t, i, patches.Deployment, []byte(test.object))
		var d appsv1.Deployment
		if err := json.Unmarshal(after, &d); err != nil {
			t.Fatal(err)
		}
		sources := map[string]string{}
		for _, v := range d.Spec.Template.Spec.Volumes {
			sources[v.Name] = ""
			if v.EmptyDir != nil {
				sources[v.Name] += "emptyDir"
			}
			if v.Secret != nil {
				sources[v.Name] += "secret"
			}
		}
		if sources["my-ca"] != "emptyDir" || sources["cacerts"] != test.cacerts {
			t.Errorf("%s: got volumes %v", name, sources)
		}
		for _, c := range append(d.Spec.Template.Spec.InitContainers, d.Spec.Template.Spec.Containers...) {
			if strings.HasPrefix(c.Name, "istiod-agent") && c.VolumeMounts[len(c.VolumeMounts)-1].Name != "my-ca" {
				t.Errorf("%s: container %s mounts %v", name, c.Name, c.VolumeMounts)
			}
		}
		back := string(apply(t, after, patches.Uninject(patches.Deployment, after).Operations))
		if !strings.Contains(back, `"secretName":"my-ca"`) {
			t.Errorf("%s: got back %s", name, back)
		}
	}
}

// The agent has the token for the API server that istiod has.
func TestTheTokenOfIstiod(t *testing.T) {
	t.Parallel()
	token := "\n        - {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount/, readOnly: true}"
	off := []string{"      containers:", "      automountServiceAccountToken: false\n      containers:"}
	for name, test := range map[string]struct {
		edit            []string
		mounted, warned bool
	}{
		"as ever":                  {},
		"mounted by hand":          {append([]string{ownMount, ownMount + token, "      volumes:", "      volumes:\n      - {name: api-token, projected: {sources: [{serviceAccountToken: {path: token}}]}}"}, off...), true, false},
		"mounted nowhere":          {off, false, true},
		"automount on, explicitly": {[]string{"      containers:", "      automountServiceAccountToken: true\n      containers:"}, false, false},
	} {
		for _, config := range []string{"", "sidecar: native"} {
			i := injector(t, config)
			object := edit(t, test.edit...)
			injected := inject(t, i, patches.Deployment, object)
			spec := podSpec(t, patches.Deployment, injected)
			agent, err := json.Marshal(item(t, spec, map[string]string{"": "containers", "sidecar: native": "initContainers"}[config], "istiod-agent"))
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(string(agent), `"name":"api-token"`); got != test.mounted {
				t.Errorf("%s: mounted: %t, want %t: %s", name, got, test.mounted, agent)
			}
			if got := strings.Contains(strings.Join(i.Inject(patches.Deployment, object).Warnings, ""), patches.TokenPath); got != test.warned {
				t.Errorf("%s: warned: %t, want %t", name, got, test.warned)
			}
			if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
				t.Errorf("%s: got back %s", name, back)
			}
		}
	}
}

// A volume called cacerts that is mounted elsewhere has another purpose, and keeps its content.
func TestAVolumeOfThatNameElsewhere(t *testing.T) {
	t.Parallel()
	for _, object := range [][]byte{
		edit(t, ownMount, strings.Replace(ownMount, "/etc/cacerts", "/var/run/ca", 1)),
		edit(t, ownMount+"\n", "", lists, "      initContainers: [{name: first, volumeMounts: [{name: cacerts, mountPath: /x}]}]\n"+lists),
	} {
		injected := inject(t, injector(t, ""), patches.Deployment, object)
		spec := podSpec(t, patches.Deployment, injected)
		wantYAML(t, item(t, spec, "volumes", "cacerts"), "{name: cacerts, secret: {secretName: cacerts, optional: true}}")
		wantYAML(t, item(t, spec, "volumes", patches.OwnCACertsVolume), "{name: istiod-agent-cacerts, emptyDir: {medium: Memory, sizeLimit: 1Mi}}")
		if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
			t.Errorf("got back %s", back)
		}
	}
}

// The pod's own resources bound those of its containers: nothing is added to their sum.
func TestResourcesOfThePod(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ pod, config, want string }{
		"both":               {"{requests: {cpu: 500m, memory: 1Gi}, limits: {cpu: '1', memory: 1Gi}}", "", "{requests: {cpu: '0', memory: '0'}, limits: {memory: 64Mi}}"},
		"a request of CPU":   {"{requests: {cpu: 500m}}", "", "{requests: {cpu: '0', memory: 32Mi}, limits: {memory: 64Mi}}"},
		"a limit below ours": {"{limits: {memory: 32Mi}}", "", "{requests: {cpu: 10m, memory: '0'}}"},
		"a limit alone":      {"{limits: {cpu: '1'}}", "agent: {resources: {limits: {cpu: 100m}}}", "{requests: {cpu: '0'}, limits: {cpu: 100m}}"},
		"none":               {"{}", "", "{requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 64Mi}}"},
		"null":               {"null", "", "{requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 64Mi}}"},
	} {
		spec := podSpec(t, patches.Deployment, inject(t, injector(t, test.config), patches.Deployment, edit(t, lists, "      resources: "+test.pod+"\n"+lists)))
		for _, at := range [][2]string{{"containers", "istiod-agent"}, {"initContainers", "istiod-agent-init"}} {
			t.Run(name+"/"+at[1], func(t *testing.T) { wantYAML(t, item(t, spec, at[0], at[1])["resources"], test.want) })
		}
	}
}

// The agent plans by the life of the certificates that istiod signs.
func TestTheWorkloadTTLOfIstiod(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	with := func(value string) []byte {
		return edit(t, ownEnv, ownEnv+", {name: DEFAULT_WORKLOAD_CERT_TTL, "+value+"}")
	}
	for value, want := range map[string]string{
		"value: 48h": "48h", "value: ''": "", "value: '$(X)'": "none", "valueFrom: {configMapKeyRef: {name: a, key: b}}": "a",
	} {
		injected := inject(t, i, patches.Deployment, with(value))
		var d appsv1.Deployment
		if err := json.Unmarshal(injected, &d); err != nil {
			t.Fatal(err)
		}
		for _, c := range append(d.Spec.Template.Spec.InitContainers, d.Spec.Template.Spec.Containers[1:]...) {
			if got := ttl(c); got != want {
				t.Errorf("%s: container %s has %q, want %q", value, c.Name, got, want)
			}
		}
	}
	injected := string(inject(t, i, patches.Deployment, with("value: 48h")))
	for value, edited := range map[string]string{
		"72h":  strings.Replace(injected, `"48h"`, `"72h"`, 1),
		"none": strings.Replace(injected, `"name":"DEFAULT_WORKLOAD_CERT_TTL","value":"48h"`, `"name":"OTHER","value":"48h"`, 1),
	} {
		followed := apply(t, []byte(edited), i.Inject(patches.Deployment, []byte(edited)).Operations)
		var d appsv1.Deployment
		if err := json.Unmarshal(followed, &d); err != nil {
			t.Fatal(err)
		}
		for _, c := range append(d.Spec.Template.Spec.InitContainers, d.Spec.Template.Spec.Containers...) {
			if got := ttl(c); got != value {
				t.Errorf("istiod's became %s: container %s has %q", value, c.Name, got)
			}
		}
	}
}

func ttl(c corev1.Container) string {
	for _, v := range c.Env {
		if v.Name == istio.WorkloadTTLVariable {
			if v.ValueFrom != nil {
				return v.ValueFrom.ConfigMapKeyRef.Name
			}
			return v.Value
		}
	}
	return "none"
}

// What an agent's container has from istiod goes when istiod has it no more.
func TestWhatFollowsIstiodGoesWithIt(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	ids := "        securityContext: {runAsUser: 1337, runAsGroup: 1337}"
	token := "\n        - {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}"
	for name, test := range map[string]struct {
		edit     []string
		old, new string
		gone     string
	}{
		"ids": {[]string{ownImage, ownImage + "\n" + ids}, `"securityContext":{"runAsGroup":1337,"runAsUser":1337}`, `"securityContext":{}`, "1337"},
		"the token's mount": {
			[]string{ownMount, ownMount + token, "      volumes:", "      volumes:\n      - {name: api-token, emptyDir: {}}"},
			`{"emptyDir":{},"name":"api-token"},`, "", `"api-token","readOnly":true,"mountPath"`,
		},
	} {
		injected := string(inject(t, i, patches.Deployment, edit(t, test.edit...)))
		left := strings.Replace(injected, test.old, test.new, 1)
		if left == injected {
			t.Fatalf("%s: %s is not in %s", name, test.old, injected)
		}
		if name == "the token's mount" {
			left = strings.Replace(left, `,{"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","name":"api-token","readOnly":true}`, "", 1)
		}
		result := i.Inject(patches.Deployment, []byte(left))
		if after := string(templateOf(t, apply(t, []byte(left), result.Operations))); strings.Contains(after, test.gone) {
			t.Errorf("%s: %q is still there: %s", name, test.gone, after)
		}
	}
	// Resources of the pod that its owner has set since bound the agent's.
	injected := string(inject(t, i, patches.Deployment, edit(t)))
	bounded := []byte(strings.Replace(injected, `"volumes":[`, `"resources":{"requests":{"cpu":"500m"}},"volumes":[`, 1))
	after := apply(t, bounded, i.Inject(patches.Deployment, bounded).Operations)
	wantYAML(t, item(t, podSpec(t, patches.Deployment, after), "containers", "istiod-agent")["resources"], "{requests: {cpu: '0', memory: 32Mi}, limits: {memory: 64Mi}}")
}

// Without a digest a changed configuration reaches the containers all the same, and an opt-out takes them out whatever
// else changes with it.
func TestWithoutADigest(t *testing.T) {
	t.Parallel()
	const form = "annotate: false\nagent: {image: 'registry/agent:v1', "
	one := inject(t, injector(t, form+"env: [{name: LOG, value: a}]}"), patches.Deployment, edit(t))
	for config, want := range map[string]string{
		"env: [{name: LOG, value: b}]}":                                 `{"name":"LOG","value":"b"}`,
		"env: [{name: LOG, value: a}], imagePullPolicy: Always}":        `"imagePullPolicy":"Always"`,
		"env: [{name: LOG, value: a}], resources: {limits: {cpu: 1m}}}": `"limits":{"cpu":"1m"}`,
	} {
		if after := string(inject(t, injector(t, form+config), patches.Deployment, one)); strings.Count(after, want) != 2 {
			t.Errorf("%s: got %s", config, after)
		}
	}
	off := injector(t, form+"vaultToken: {}}")
	if after := string(inject(t, off, patches.Deployment, one)); strings.Contains(after, patches.VaultTokenVolume) {
		t.Errorf("the token for Vault is still mounted: %s", after)
	}
	limited := mutated(t, patches.Deployment, one, func(c map[string]any) {
		c["resources"] = map[string]any{"limits": map[string]any{"cpu": "5m"}}
	})
	if after := string(inject(t, off, patches.Deployment, limited)); strings.Contains(after, `"5m"`) {
		t.Errorf("a request above its limit: %s", after)
	}
	changed := mutated(t, patches.Deployment, one, func(c map[string]any) { c["image"] = "mirror/" + c["image"].(string); c["args"] = nil })
	result := off.Inject(patches.Deployment, optOut(t, changed))
	if back := string(apply(t, optOut(t, changed), result.Operations)); strings.Contains(back, `"name":"istiod-agent`) || !strings.Contains(back, `"secretName":"cacerts"`) {
		t.Errorf("opted out: %s, got %s", result.Message, back)
	}
}

// Whatever the size of what somebody writes, the patch and the work on it stay small.
func TestHugeContainersAreReplaced(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	injected := inject(t, i, patches.Deployment, edit(t))
	huge := mutated(t, patches.Deployment, injected, func(c map[string]any) {
		var mounts, env []any
		for range 5000 {
			mounts = append(mounts, map[string]any{"name": "cacerts", "mountPath": "/etc/cacerts/x"})
			env = append(env, map[string]any{"name": "POD_NAME", "value": "x"})
		}
		c["volumeMounts"], c["env"] = mounts, env
	})
	result := i.Inject(patches.Deployment, huge)
	if len(result.Operations) > 8 || !same(t, apply(t, huge, result.Operations), injected) {
		t.Errorf("%d operations", len(result.Operations))
	}
}

// The agent's token volume is none for istiod's CA.
func TestTheTokensVolumeIsNotIstiods(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	theirs := edit(t, "- {name: cacerts, mountPath", "- {name: istiod-agent-vault-token, mountPath", "- {name: cacerts, secret", "- {name: istiod-agent-vault-token, secret")
	if result := i.Inject(patches.Deployment, theirs); result.Reason != patches.CACertsElsewhere || !strings.Contains(result.Message, "another name") {
		t.Errorf("got %s: %s", result.Reason, result.Message)
	}
	injected := inject(t, i, patches.Deployment, edit(t))
	odd := mutated(t, patches.Deployment, injected, func(c map[string]any) {
		c["volumeMounts"] = []any{map[string]any{"name": patches.VaultTokenVolume, "mountPath": "/etc/cacerts"}}
	})
	if after := apply(t, odd, i.Inject(patches.Deployment, odd).Operations); !sameLists(t, after, injected) {
		t.Errorf("got %s", after)
	}
}

// A volume of any size can be replaced; what is too large to be noted is said.
func TestALargeVolume(t *testing.T) {
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
