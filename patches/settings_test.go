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

// The agent has the token for the API server that istiod has.
func TestSettingsToken(t *testing.T) {
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
			if got := strings.Contains(strings.Join(i.Inject(patches.Deployment, object).Warnings, ""), "/var/run/secrets/kubernetes.io/serviceaccount"); got != test.warned {
				t.Errorf("%s: warned: %t, want %t", name, got, test.warned)
			}
			if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
				t.Errorf("%s: got back %s", name, back)
			}
		}
	}
}

// The key is the agent's user's. Root reads it with CAP_DAC_OVERRIDE only, and the agent's containers refuse to run as root.
func TestSettingsRoot(t *testing.T) {
	t.Parallel()
	istiods := func(context string) []string {
		return []string{"        image: pilot", "        image: pilot\n        securityContext: " + context}
	}
	pods := []string{"      containers:", "      securityContext: {runAsUser: 0}\n      containers:"}
	const unread, refused = "cannot read the agent's key", "spec.template.spec.securityContext.runAsUser is 0"
	for name, test := range map[string]struct {
		config string
		edit   []string
		warned string
	}{
		"as ever":                        {},
		"root":                           {edit: istiods("{runAsUser: 0}")},
		"root without capabilities":      {edit: istiods("{runAsUser: 0, capabilities: {drop: [ALL]}}"), warned: unread},
		"root without this one":          {edit: istiods("{runAsUser: 0, capabilities: {drop: [DAC_OVERRIDE]}}"), warned: unread},
		"root with this one alone":       {edit: istiods("{runAsUser: 0, capabilities: {drop: [ALL], add: [DAC_OVERRIDE]}}")},
		"root without another":           {edit: istiods("{runAsUser: 0, capabilities: {drop: [NET_RAW]}}")},
		"another user, no capabilities":  {edit: istiods("{runAsUser: 7, capabilities: {drop: [ALL]}}")},
		"the agent is root too":          {config: "agent: {securityContext: {runAsUser: 0}}", edit: istiods("{runAsUser: 0, capabilities: {drop: [ALL]}}")},
		"root by the pod":                {edit: pods, warned: refused},
		"root by the pod, not istiod":    {edit: append(istiods("{runAsUser: 7}"), pods...)},
		"root by the pod, as is allowed": {config: "agent: {securityContext: {}}", edit: append(istiods("{capabilities: {drop: [ALL]}}"), pods...)},
		"root by the pod, not the agent": {config: "agent: {securityContext: {runAsUser: 7}}", edit: append(istiods("{capabilities: {drop: [ALL]}}"), pods...), warned: unread},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			warnings := injector(t, test.config).Inject(patches.Deployment, edit(t, test.edit...)).Warnings
			if test.warned == "" && len(warnings) > 0 || test.warned != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], test.warned)) {
				t.Errorf("warnings %q, want one with %q", warnings, test.warned)
			}
		})
	}
}

// The pod's own resources bound those of its containers: nothing is added to their sum.
func TestSettingsPodResources(t *testing.T) {
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
func TestSettingsWorkloadTTL(t *testing.T) {
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
func TestSettingsFollowIstiod(t *testing.T) {
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
