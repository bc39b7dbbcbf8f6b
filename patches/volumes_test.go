// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/istiod-agent/istiod-agent/patches"
)

// Its owner moves istiod's mount to another volume: that one is the agent's now, and the first one its owner's again.
func TestMovedMount(t *testing.T) {
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

// The injection has added the mount, and then its owner mounts another volume there: that mount stays.
func TestMountTakenOver(t *testing.T) {
	t.Parallel()
	i := injector(t, "")
	injected := string(inject(t, i, patches.Deployment, edit(t, ownMount+"\n", "")))
	const added = `{"name":"cacerts","mountPath":"/etc/cacerts","readOnly":true}`
	owners := strings.Replace(injected, added, strings.Replace(added, "cacerts", "my-ca", 1), 1)
	owners = strings.Replace(owners, `"volumes":[`, `"volumes":[{"name":"my-ca","secret":{"secretName":"my-ca"}},`, 1)
	if strings.Count(owners, "my-ca") != 3 {
		t.Fatalf("got %s", owners)
	}
	again := inject(t, i, patches.Deployment, []byte(owners))
	back := podSpec(t, patches.Deployment, apply(t, again, patches.Uninject(patches.Deployment, again).Operations))
	if mounts, _ := json.Marshal(item(t, back, "containers", "discovery")["volumeMounts"]); !strings.Contains(string(mounts), `"my-ca"`) {
		t.Errorf("got back the mounts %s", mounts)
	}
	wantYAML(t, item(t, back, "volumes", "my-ca"), "{name: my-ca, secret: {secretName: my-ca}}")

	// A server-side apply that merges the owner's volume into the injected one does not touch the mount.
	const memory = `"emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}`
	merged := inject(t, i, patches.Deployment, []byte(strings.Replace(injected, memory, `"secret":{"secretName":"cacerts","optional":true},`+memory, 1)))
	if back := apply(t, merged, patches.Uninject(patches.Deployment, merged).Operations); !same(t, back, edit(t, ownMount+"\n", "")) {
		t.Errorf("after a merge: got back %s", back)
	}
}

// A volume called cacerts that is mounted elsewhere has another purpose, and keeps its content.
func TestCACertsVolumeName(t *testing.T) {
	t.Parallel()
	for _, object := range [][]byte{
		edit(t, ownMount, strings.Replace(ownMount, "/etc/cacerts", "/var/run/ca", 1)),
		edit(t, ownMount+"\n", "", lists, "      initContainers: [{name: first, volumeMounts: [{name: cacerts, mountPath: /x}]}]\n"+lists),
	} {
		injected := inject(t, injector(t, ""), patches.Deployment, object)
		spec := podSpec(t, patches.Deployment, injected)
		wantYAML(t, item(t, spec, "volumes", "cacerts"), "{name: cacerts, secret: {secretName: cacerts, optional: true}}")
		wantYAML(t, item(t, spec, "volumes", "istiod-agent-cacerts"), "{name: istiod-agent-cacerts, emptyDir: {medium: Memory, sizeLimit: 1Mi}}")
		if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
			t.Errorf("got back %s", back)
		}
	}
}

// The agent's token volume is none for istiod's CA.
func TestVaultTokenVolumeIsReserved(t *testing.T) {
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
