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

// noToken warns where the agent would have no token for the API server.
func (p *patch) noToken(o *object, f fit) {
	if o.tokenOff && f.token == nil {
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
	if _, noted := o.template.annotations[OriginalAnnotation]; noted && stale && o.template != o.own {
		p.setAnnotation(o.template, OriginalAnnotation, "")
	}
	p.setAnnotation(o.own, OriginalAnnotation, note)
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

// addMount gives istiod's container the mount that Istio's chart gives it.
func (p *patch) addMount(o *object, volume string) {
	name, _ := json.Marshal(volume) // a string
	mount := json.RawMessage(`{"name":` + string(name) + `,"mountPath":"` + CACertsPath + `","readOnly":true}`)
	mounts := list{at: o.containers.entry(o.istiod.index) + "/volumeMounts", exists: o.istiod.hasMounts}
	p.insert(&mounts, false, mount, fmt.Sprintf("mount %s in container %s", CACertsPath, o.istiod.name))
}
