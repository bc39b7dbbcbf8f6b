// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	"gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
)

// inject writes what the object still lacks. Order matters: istiod's container
// is named by its index before the lists around it change.
func (i *Injector) inject(o *object) Result {
	const ordinary = 6 // operations: a variable, both containers, the volume, two annotations
	p := patch{Result{
		Operations: make([]jsonpatch.Operation, 0, ordinary), Changes: make([]string, 0, ordinary),
		ServiceAccount: cmp.Or(o.serviceAccount, "default"),
	}}
	volume := o.caVolume()
	note, replaced := i.newNote(o, volume)
	if len(note.Volume) > maxNotedVolume {
		note.Volume = nil
		p.Warnings = append(p.Warnings, fmt.Sprintf("volume %s is too large to be noted in annotation %s: taking the agent out puts Secret cacerts in its place", volume, OriginalAnnotation))
	} else if replaced != nil && note.Volume != nil {
		p.Warnings = append(p.Warnings, fmt.Sprintf("volume %s (%s), which is not the Secret volume of Istio's chart, is replaced: istiod does not read it any more", volume, strings.Join(sourcesOf(replaced), ", ")))
	}
	if o.istiod.volume == "" {
		p.addMount(o, volume)
	}
	i.setVariables(&p, o)

	r, s := &i.rendered, i.settingsOf(o, volume)
	p.warnMissingToken(o, s)
	adapt := func(c *corev1.Container, rendered json.RawMessage) (*corev1.Container, json.RawMessage) {
		adapted := r.adapted(c, s)
		if adapted == c {
			return c, rendered
		}
		raw, _ := containerJSON(adapted) // the same type was marshalled when it was rendered
		return adapted, raw
	}
	preserve := i.preserves(o)
	init, initJSON := adapt(r.init, r.json.init)
	p.setContainer(o, &o.initContainers, init, initJSON, true, preserve, s)
	if r.sidecar == nil {
		p.drop(&o.containers)
	} else {
		sidecar, sidecarJSON := adapt(r.sidecar, r.json.sidecar)
		p.setContainer(o, &o.containers, sidecar, sidecarJSON, false, preserve, s)
	}
	i.injectVolumes(&p, o, volume)
	i.annotate(&p, o, note.text())
	return p.Result
}

// warnMissingToken warns where the agent would have no token for the API server.
func (p *patch) warnMissingToken(o *object, s settings) {
	if o.automountDisabled && s.token == nil {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s.automountServiceAccountToken is false and container %s mounts no token at %s, so the agent has none either and cannot read its IssuedCertificate: istiod will not start; mount one in container %s, or remove automountServiceAccountToken", strings.ReplaceAll(strings.TrimPrefix(o.pod, "/"), "/", "."), o.istiod.name, TokenPath, o.istiod.name))
	}
}

// annotate records the digest on the pod template, and what was replaced on the object itself. A note of an earlier
// version stays on the pod template until that changes anyway, for the sake of a Deployment that would restart.
func (i *Injector) annotate(p *patch, o *object, note string) {
	digest := ""
	if i.rendered.annotate {
		digest = i.rendered.digest
	}
	stale := o.template.annotations[InjectedAnnotation] != digest
	p.setAnnotation(o.template, InjectedAnnotation, digest)
	if _, hasNote := o.template.annotations[OriginalAnnotation]; hasNote && stale && o.template != o.own {
		p.setAnnotation(o.template, OriginalAnnotation, "")
	}
	p.setAnnotation(o.own, OriginalAnnotation, note)
}

// setContainer puts one of the agent's containers at its place, first or last, and
// takes any other of the agent's out of the list. One that stays is completed
// where it is.
func (p *patch) setContainer(o *object, l *list, desired *corev1.Container, raw json.RawMessage, first bool, preserve preservation, s settings) {
	at := len(l.items) - 1
	if first {
		at = 0
	}
	if agents := l.agents(); len(agents) == 1 && l.items[agents[0]].name == desired.Name {
		switch {
		case preserve != preserveNothing && p.complete(o, l, agents[0], desired, preserve, s):
			return
		case agents[0] == at:
			if !bytes.Equal(l.items[at].raw, raw) {
				p.add("replace", l.entry(at), raw, "update container "+desired.Name)
			}
			return
		}
	}
	p.drop(l)
	p.insert(l, first, raw, "add container "+desired.Name)
}

// addMount gives istiod's container the mount that Istio's chart gives it.
func (p *patch) addMount(o *object, volume string) {
	name, _ := json.Marshal(volume) // a string
	mount := json.RawMessage(`{"name":` + string(name) + `,"mountPath":"` + CACertsPath + `","readOnly":true}`)
	mounts := list{path: o.containers.entry(o.istiod.index) + "/volumeMounts", exists: o.istiod.hasMounts}
	p.insert(&mounts, false, mount, fmt.Sprintf("mount %s in container %s", CACertsPath, o.istiod.name))
}
