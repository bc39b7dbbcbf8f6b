// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// inject writes what the object still lacks. Order matters: istiod's container
// is named by its index before the lists around it change.
func (i *Injector) inject(o *object) Result {
	const ordinary = 6 // operations: a variable, both containers, the volume, two annotations
	p := patch{Result{
		Operations: make([]jsonpatch.Operation, 0, ordinary), Changes: make([]string, 0, ordinary),
		ServiceAccount: cmp.Or(o.serviceAccount, "default"),
	}}
	original := i.original(o)
	volume := o.istiod.volume
	if volume == "" {
		volume = CACertsVolume
		p.addMount(o)
	}
	i.setVariables(&p, o)

	r := &i.rendered
	multiRoot := i.takesOtherRoots(o)
	fit := func(c *corev1.Container, ready json.RawMessage) (*corev1.Container, json.RawMessage) {
		fitted := r.forIstiod(c, volume, o.istiod.user, o.istiod.group, multiRoot)
		if fitted == c {
			return c, ready
		}
		raw, _ := containerJSON(fitted) // the same type was marshalled when it was rendered
		return fitted, raw
	}
	init, initJSON := fit(r.init, r.ready.init)
	p.place(o.kind, &o.initContainers, init, initJSON, true)
	if r.sidecar == nil {
		p.drop(&o.containers)
	} else {
		sidecar, sidecarJSON := fit(r.sidecar, r.ready.sidecar)
		p.place(o.kind, &o.containers, sidecar, sidecarJSON, false)
	}
	i.injectVolume(&p, o, volume)
	i.injectToken(&p, o)
	i.annotate(&p, o, original)
	return p.Result
}

// injectVolume replaces the volume as a whole: a merge by the API server leaves
// `secret` and `emptyDir` side by side, which no API server accepts.
func (i *Injector) injectVolume(p *patch, o *object, name string) {
	want := i.rendered.volume
	raw := i.rendered.ready.volume
	if name != want.Name {
		want.Name = name
		raw, _ = json.Marshal(want) // the same type was marshalled when it was rendered
	}
	at := o.volumes.index(name)
	switch {
	case at < 0:
		p.insert(&o.volumes, false, raw, "add in-memory volume "+name)
	case !isVolume(o.volumes.items[at].raw, want):
		p.add("replace", o.volumes.entry(at), raw, "make volume "+name+" in-memory")
	}
}

// injectToken adds the volume with the token for Vault, or takes out one that an earlier configuration asked for.
func (i *Injector) injectToken(p *patch, o *object) {
	want, at := i.rendered.token, o.volumes.index(VaultTokenVolume)
	switch {
	case want == nil && at >= 0:
		p.add("remove", o.volumes.entry(at), nil, "remove volume "+VaultTokenVolume)
	case want != nil && at < 0:
		p.insert(&o.volumes, false, i.rendered.ready.token, "add volume "+VaultTokenVolume)
	case want != nil && !isTokenVolume(o.volumes.items[at].raw, *want):
		p.add("replace", o.volumes.entry(at), i.rendered.ready.token, "update volume "+VaultTokenVolume)
	}
}

func isTokenVolume(stored []byte, want corev1.Volume) bool {
	var have corev1.Volume
	if json.Unmarshal(stored, &have) != nil || have.Projected == nil || len(sourcesOf(stored)) != 1 {
		return false
	}
	want = *want.DeepCopy()
	for _, projected := range []*corev1.ProjectedVolumeSource{have.Projected, want.Projected} {
		if projected.DefaultMode == nil {
			projected.DefaultMode = new(corev1.ProjectedVolumeSourceDefaultMode)
		}
	}
	return equality.Semantic.DeepEqual(have, want)
}

func isVolume(stored []byte, want corev1.Volume) bool {
	var have corev1.Volume
	return emptyDirOnly(stored) && json.Unmarshal(stored, &have) == nil && equality.Semantic.DeepEqual(have, want)
}

// annotate records the digest and what was replaced on the pod template.
func (i *Injector) annotate(p *patch, o *object, original string) {
	want := map[string]string{InjectedAnnotation: i.rendered.digest, OriginalAnnotation: original}
	if !i.rendered.annotate {
		want = map[string]string{InjectedAnnotation: ""}
	}
	fresh := map[string]string{}
	for _, key := range []string{InjectedAnnotation, OriginalAnnotation} {
		value, known := want[key]
		have, exists := o.annotations[key]
		switch at := o.podMeta + "/annotations/" + escape(key); {
		case !known || (value == "" && !exists) || (value != "" && have == value):
		case value == "":
			p.add("remove", at, nil, "remove annotation "+key)
		case o.hasAnnotations:
			p.add("add", at, value, "set annotation "+key)
		default:
			fresh[key] = value
		}
	}
	if len(fresh) == 0 {
		return
	}
	if o.hasPodMeta {
		p.add("add", o.podMeta+"/annotations", fresh, "set annotation "+InjectedAnnotation)
	} else {
		p.add("add", o.podMeta, map[string]any{"annotations": fresh}, "set annotation "+InjectedAnnotation)
	}
}

// patch collects operations and what each does, in words.
type patch struct{ Result }

func (p *patch) add(op, path string, value any, change string) {
	p.Operations = append(p.Operations, jsonpatch.NewOperation(op, path, value))
	if change != "" {
		p.Changes = append(p.Changes, change)
	}
}

// place puts one of the agent's containers at its place, first or last, and
// takes any other of the agent's out of the list.
func (p *patch) place(kind Kind, l *list, want *corev1.Container, raw json.RawMessage, first bool) {
	at := len(l.items) - 1
	if first {
		at = 0
	}
	if ours := l.agents(); len(ours) == 1 && ours[0] == at && l.items[at].name == want.Name {
		stored := l.items[at].raw
		if !bytes.Equal(stored, raw) && !asRendered(kind, stored, want) {
			p.add("replace", l.entry(at), raw, "update container "+want.Name)
		}
		return
	}
	p.drop(l)
	p.insert(l, first, raw, "add container "+want.Name)
}

// drop takes the agent's containers out of the list, the last one first, so
// that the indices before it stay true.
func (p *patch) drop(l *list) {
	for _, ours := range slices.Backward(l.agents()) {
		p.add("remove", l.entry(ours), nil, "remove container "+l.items[ours].name)
	}
}

// listOfOne is a new list with one entry.
type listOfOne []json.RawMessage

// insert adds to a list, or makes the list.
func (p *patch) insert(l *list, first bool, raw json.RawMessage, change string) {
	switch {
	case !l.exists:
		p.add("add", l.at, listOfOne{raw}, change)
		l.exists = true
	case first:
		p.add("add", l.at+"/0", raw, change)
	default:
		p.add("add", l.at+"/-", raw, change)
	}
}

// addMount gives istiod's container the mount that Istio's chart gives it.
func (p *patch) addMount(o *object) {
	mount := json.RawMessage(`{"name":"` + CACertsVolume + `","mountPath":"` + CACertsPath + `","readOnly":true}`)
	mounts := list{at: o.containers.entry(o.istiod.index) + "/volumeMounts", exists: o.istiod.hasMounts}
	p.insert(&mounts, false, mount, fmt.Sprintf("mount %s in container %s", CACertsPath, o.istiod.name))
}

func (l *list) entry(index int) string { return l.at + "/" + strconv.Itoa(index) }

// agents are the indices of the agent's containers, in order.
func (l *list) agents() []int {
	var found []int
	for i, item := range l.items {
		if isAgent(item.name) {
			found = append(found, i)
		}
	}
	return found
}

// escape a name for use in a JSON pointer (RFC 6901).
func escape(name string) string { return pointer.Replace(name) }

var pointer = strings.NewReplacer("~", "~0", "/", "~1")
