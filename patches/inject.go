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
	volume := o.cacerts()
	was, replaced := i.original(o, volume)
	if len(was.Volume) > maxNotedVolume {
		was.Volume = nil
		p.Warnings = append(p.Warnings, fmt.Sprintf("volume %s is too large to be noted in annotation %s: taking the agent out puts Secret cacerts in its place", volume, OriginalAnnotation))
	} else if replaced != nil && was.Volume != nil {
		p.Warnings = append(p.Warnings, fmt.Sprintf("volume %s (%s), which is not the Secret volume of Istio's chart, is replaced: istiod does not read it any more", volume, strings.Join(sourcesOf(replaced), ", ")))
	}
	if o.istiod.volume == "" {
		p.addMount(o, volume)
	}
	i.setVariables(&p, o)

	r, f := &i.rendered, i.fitOf(o, volume)
	p.noToken(o, f)
	fit := func(c *corev1.Container, ready json.RawMessage) (*corev1.Container, json.RawMessage) {
		fitted := r.fitted(c, f)
		if fitted == c {
			return c, ready
		}
		raw, _ := containerJSON(fitted) // the same type was marshalled when it was rendered
		return fitted, raw
	}
	keep := i.keeps(o)
	init, initJSON := fit(r.init, r.ready.init)
	p.place(o, &o.initContainers, init, initJSON, true, keep, f)
	if r.sidecar == nil {
		p.drop(&o.containers)
	} else {
		sidecar, sidecarJSON := fit(r.sidecar, r.ready.sidecar)
		p.place(o, &o.containers, sidecar, sidecarJSON, false, keep, f)
	}
	i.injectVolumes(&p, o, volume)
	i.annotate(&p, o, was.text())
	return p.Result
}

// cacerts is the name of the volume that holds istiod's CA: what istiod mounts, else what an earlier injection used, else
// the chart's. One of that name that is mounted elsewhere has another purpose, and keeps its content.
func (o *object) cacerts() string {
	switch {
	case o.istiod != nil && o.istiod.volume != "":
		return o.istiod.volume
	case len(o.agentsVolumes) > 0:
		return o.agentsVolumes[0]
	case o.mounted[CACertsVolume]:
		return OwnCACertsVolume
	}
	return CACertsVolume
}

// noToken warns where the agent would have no token for the API server.
func (p *patch) noToken(o *object, f fit) {
	if o.tokenOff && f.token == nil {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s.automountServiceAccountToken is false and container %s mounts no token at %s, so the agent has none either and cannot read its IssuedCertificate: istiod will not start; mount one in container %s, or remove automountServiceAccountToken", strings.ReplaceAll(strings.TrimPrefix(o.pod, "/"), "/", "."), o.istiod.name, TokenPath, o.istiod.name))
	}
}

// volumeEdit replaces a volume of the list, or takes it out.
type volumeEdit struct {
	at     int
	raw    json.RawMessage // nil to take it out
	change string
}

// injectVolumes makes the volume called name the agent's, as a whole: a merge by
// the API server leaves `secret` and `emptyDir` side by side, which no API server
// accepts. It adds the volume with the token for Vault, or takes out one that an
// earlier configuration asked for, and what a moved mount has left behind.
func (i *Injector) injectVolumes(p *patch, o *object, name string) {
	want, raw := i.rendered.volume, i.rendered.ready.volume
	if name != want.Name {
		want.Name = name
		raw, _ = json.Marshal(want) // the same type was marshalled when it was rendered
	}
	token, tokenAt := i.rendered.token, o.volumes.index(VaultTokenVolume)

	edits := o.leftBehind(name)
	at := o.volumes.index(name)
	if at >= 0 && !isVolume(o.volumes.items[at].raw, want) {
		edits = append(edits, volumeEdit{at: at, raw: raw, change: "make volume " + name + " in-memory"})
	}
	switch {
	case tokenAt < 0:
	case token == nil:
		edits = append(edits, volumeEdit{at: tokenAt, change: "remove volume " + VaultTokenVolume})
	case !isTokenVolume(o.volumes.items[tokenAt].raw, *token):
		edits = append(edits, volumeEdit{at: tokenAt, raw: i.rendered.ready.token, change: "update volume " + VaultTokenVolume})
	}
	p.editVolumes(o, edits)
	if at < 0 {
		p.insert(&o.volumes, false, raw, "add in-memory volume "+name)
	}
	if token != nil && tokenAt < 0 {
		p.insert(&o.volumes, false, i.rendered.ready.token, "add volume "+VaultTokenVolume)
	}
}

// leftBehind is what an earlier injection made of volumes that istiod's container does not mount any more, since its
// owner has moved the mount.
func (o *object) leftBehind(name string) []volumeEdit {
	var edits []volumeEdit
	for _, left := range o.agentsVolumes {
		at := o.volumes.index(left)
		if left == name || left == VaultTokenVolume || at < 0 || !slices.Contains(sourcesOf(o.volumes.items[at].raw), "emptyDir") {
			continue
		}
		restored, _ := restoredVolume(o, left, o.note().Volume)
		switch mounted := o.mounted[left]; {
		case mounted && restored == nil:
			continue
		case !mounted && emptyDirOnly(o.volumes.items[at].raw):
			restored = nil
		}
		change := "put volume " + left + " back"
		if restored == nil {
			change = "remove volume " + left
		}
		edits = append(edits, volumeEdit{at: at, raw: restored, change: change})
	}
	return edits
}

// editVolumes makes the edits, the last volume first, so that the indices before it stay true.
func (p *patch) editVolumes(o *object, edits []volumeEdit) {
	slices.SortFunc(edits, func(a, b volumeEdit) int { return b.at - a.at })
	for _, edit := range edits {
		if edit.raw == nil {
			p.add("remove", o.volumes.entry(edit.at), nil, edit.change)
		} else {
			p.add("replace", o.volumes.entry(edit.at), edit.raw, edit.change)
		}
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

// maxNotedVolume is the most bytes of a volume that are noted: an object's annotations have 256 KiB together
// (ValidateAnnotations, apimachinery/pkg/api/validation, Kubernetes 1.37).
const maxNotedVolume = 32 << 10

// annotate records the digest on the pod template, and what was replaced on the object itself. A note of an earlier
// version stays on the pod template until that changes anyway, for the sake of a Deployment that would restart.
func (i *Injector) annotate(p *patch, o *object, note string) {
	digest := ""
	if i.rendered.annotate {
		digest = i.rendered.digest
	}
	stale := o.template.annotations[InjectedAnnotation] != digest
	p.setAnnotation(o.template, InjectedAnnotation, digest)
	if _, noted := o.template.annotations[OriginalAnnotation]; noted && stale && o.template != o.own {
		p.setAnnotation(o.template, OriginalAnnotation, "")
	}
	p.setAnnotation(o.own, OriginalAnnotation, note)
}

// setAnnotation sets one, or removes it where the value is empty.
func (p *patch) setAnnotation(m *metadata, key, value string) {
	have, exists := m.annotations[key]
	switch at := m.at + "/annotations/" + escape(key); {
	case have == value && exists == (value != ""):
	case value == "":
		p.add("remove", at, nil, "remove annotation "+key)
	case m.hasAnnotations:
		p.add("add", at, value, "set annotation "+key)
	case m.exists:
		p.add("add", m.at+"/annotations", map[string]string{key: value}, "set annotation "+key)
	default:
		p.add("add", m.at, map[string]any{"annotations": map[string]string{key: value}}, "set annotation "+key)
	}
	if value != "" {
		m.exists, m.hasAnnotations = true, true
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
// takes any other of the agent's out of the list. One that stays is completed
// where it is.
func (p *patch) place(o *object, l *list, want *corev1.Container, raw json.RawMessage, first bool, keep keeping, f fit) {
	at := len(l.items) - 1
	if first {
		at = 0
	}
	if ours := l.agents(); len(ours) == 1 && l.items[ours[0]].name == want.Name {
		switch {
		case keep != nothing && p.complete(o, l, ours[0], want, keep, f):
			return
		case ours[0] == at:
			if !bytes.Equal(l.items[at].raw, raw) {
				p.add("replace", l.entry(at), raw, "update container "+want.Name)
			}
			return
		}
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
func (p *patch) addMount(o *object, volume string) {
	name, _ := json.Marshal(volume) // a string
	mount := json.RawMessage(`{"name":` + string(name) + `,"mountPath":"` + CACertsPath + `","readOnly":true}`)
	mounts := list{at: o.containers.entry(o.istiod.index) + "/volumeMounts", exists: o.istiod.hasMounts}
	p.insert(&mounts, false, mount, fmt.Sprintf("mount %s in container %s", CACertsPath, o.istiod.name))
}

func (l *list) entry(index int) string { return entry(l.at, index) }

func entry(list string, index int) string { return list + "/" + strconv.Itoa(index) }

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
