// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"strings"
	"testing"

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
func TestCompleteKeepsAdditions(t *testing.T) {
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
func TestCompleteAfterConfigurationChange(t *testing.T) {
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

// Without a digest a changed configuration reaches the containers all the same, and an opt-out takes them out whatever
// else changes with it.
func TestCompleteWithoutDigest(t *testing.T) {
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
func TestCompleteIsBounded(t *testing.T) {
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
