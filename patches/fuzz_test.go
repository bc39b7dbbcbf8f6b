// SPDX-License-Identifier: Apache-2.0

package patches_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	evanphx "github.com/evanphx/json-patch/v5"

	"github.com/istiod-agent/istiod-agent/patches"
)

// FuzzInject takes any JSON: never a panic, and what is injected can be taken
// out again. Names that stand twice in a list are left out: no API server
// stores them.
func FuzzInject(f *testing.F) {
	f.Add([]byte(`{"spec":{"template":{"metadata":{},"spec":{"containers":[{"name":"discovery"}]}}}}`))
	f.Add([]byte(`{"spec":{"template":{"spec":{"initContainers":null,"volumes":[{"name":"cacerts","emptyDir":{},"secret":{}}],"containers":[{"name":"istiod-agent"},{"name":"x","volumeMounts":[{"name":"cacerts","mountPath":"/etc/cacerts/"}]}]}}}}`))
	injectors := []*patches.Injector{injector(f, ""), injector(f, "sidecar: native"), injector(f, "annotate: false")}
	f.Fuzz(func(t *testing.T, object []byte) {
		for _, i := range injectors {
			result := i.Inject(patches.Deployment, object)
			if !json.Valid(object) || len(result.Operations) == 0 {
				continue
			}
			text, err := json.Marshal(result.Operations)
			if err != nil {
				t.Fatal(err)
			}
			patch, err := evanphx.DecodePatch(text)
			if err != nil {
				t.Fatal(err)
			}
			after, err := patch.Apply(object)
			if err != nil {
				continue // a document that names a thing twice, or holds a list where an object belongs
			}
			_ = i.Inject(patches.Deployment, after)
			_ = patches.Uninject(patches.Deployment, after)
		}
	})
}

// FuzzWellFormed builds objects that an API server could store, unknown fields
// and all, from a seed: injection is idempotent, loses nothing, and removal is
// its inverse.
func FuzzWellFormed(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	configs := []*patches.Injector{
		injector(f, ""), injector(f, "sidecar: native"), injector(f, "cacerts: {sizeLimit: '0'}\nagent: {resources: {}}"),
		injector(f, "multiRootMesh: true"),
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 7))
		object := randomDeployment(r)
		i := configs[r.IntN(len(configs))]
		if i.Inject(patches.Deployment, object).Reason != patches.Injected {
			return
		}
		injected := inject(t, i, patches.Deployment, object)
		if back := apply(t, injected, patches.Uninject(patches.Deployment, injected).Operations); !same(t, back, object) {
			t.Errorf("got back %s\nwas      %s", back, object)
		}
		// Another configuration, the same object.
		other := inject(t, configs[r.IntN(len(configs))], patches.Deployment, object)
		again := other
		if i.Inject(patches.Deployment, other).Reason == patches.Injected {
			again = inject(t, i, patches.Deployment, other)
		}
		if !same(t, again, injected) {
			t.Errorf("by way of another configuration: got %s\nwant %s", again, injected)
		}
	})
}

func randomDeployment(r *rand.Rand) []byte {
	maybe := func(object map[string]any, key string, value any) {
		if r.IntN(2) == 0 {
			object[key] = value
		}
	}
	list := func(prefix string, entry func(name string) map[string]any) []any {
		var entries []any
		for n := range r.IntN(4) {
			entries = append(entries, entry(fmt.Sprint(prefix, n)))
		}
		return entries
	}
	unknown := func(name string) map[string]any {
		thing := map[string]any{"name": name}
		maybe(thing, "unknown/~field", []any{map[string]any{"a": 1.5}, nil, "<&>"})
		return thing
	}

	mounts := list("mount-", func(name string) map[string]any {
		return map[string]any{"name": name, "mountPath": "/" + name}
	})
	if r.IntN(3) > 0 {
		mounts = append(mounts, map[string]any{"name": "cacerts", "mountPath": "/etc/cacerts", "tomorrow": true})
	}
	istiod := unknown("discovery")
	maybe(istiod, "volumeMounts", mounts)
	env := list("ENV", unknown)
	if r.IntN(4) == 0 {
		env = append(env, map[string]any{"name": "ISTIO_MULTIROOT_MESH", "value": []string{"true", "false"}[r.IntN(2)]})
	}
	if r.IntN(4) == 0 {
		env = append([]any{map[string]any{"name": "ROOT_CA_DIR", "value": []string{"./etc/cacerts", "/etc/cacerts"}[r.IntN(2)]}}, env...)
	}
	maybe(istiod, "env", env)
	maybe(istiod, "envFrom", []any{map[string]any{"prefix": "ROOT_"}})
	maybe(istiod, "securityContext", map[string]any{"runAsUser": 1337})
	containers := append(list("before-", unknown), istiod)
	containers = append(containers, list("after-", unknown)...)

	volumes := list("volume-", unknown)
	if r.IntN(3) > 0 {
		volume := map[string]any{"name": "cacerts"}
		volume[[]string{"secret", "emptyDir", "tomorrow"}[r.IntN(3)]] = map[string]any{"optional": true}
		volumes = append(volumes, volume)
	}
	spec := map[string]any{"containers": containers}
	maybe(spec, "initContainers", list("init-", unknown))
	maybe(spec, "volumes", append(volumes, unknown("last")))
	maybe(spec, "dnsPolicy", "ClusterFirst")
	maybe(spec, "schedulerName", "default-scheduler")
	template := map[string]any{"spec": spec}
	meta := unknown("template")
	maybe(meta, "annotations", map[string]any{"a.b/c": "d"})
	maybe(template, "metadata", meta)
	object := map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": unknown("istiod"), "spec": map[string]any{"template": template}, "status": unknown("status"),
	}
	raw, _ := json.Marshal(object)
	return raw
}
