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

// inject writes what the object lacks. istiod's container comes first: its index is valid until the lists change.
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
		p.Warnings = append(p.Warnings, fmt.Sprintf("volume %s is too large to be noted in annotation %s: a removal of the agent restores Secret cacerts instead", volume, OriginalAnnotation))
	} else if replaced != nil && note.Volume != nil {
		p.Warnings = append(p.Warnings, fmt.Sprintf("volume %s (%s) is not the Secret volume of Istio's chart and is replaced: istiod no longer reads it", volume, strings.Join(sourcesOf(replaced), ", ")))
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
	p.warnRoot(o, init.SecurityContext)
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

func (p *patch) warnMissingToken(o *object, s settings) {
	if o.automountDisabled && s.token == nil {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s.automountServiceAccountToken is false and container %s mounts no token at %s, so the agent has no token and cannot read its IssuedCertificate: istiod will not start; mount a token in container %s, or remove automountServiceAccountToken", o.podPath(), o.istiod.name, TokenPath, o.istiod.name))
	}
}

// warnRoot warns of root's user in the pod's or istiod's security context. The key is readable by the agent's user alone.
func (p *patch) warnRoot(o *object, agent *corev1.SecurityContext) {
	if agent == nil {
		agent = &corev1.SecurityContext{}
	}
	switch inherits := o.root && agent.RunAsUser == nil; {
	case inherits && agent.RunAsNonRoot != nil && *agent.RunAsNonRoot:
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s.securityContext.runAsUser is 0, and the agent's containers must not run as root: they will not start, and neither will istiod; remove it, or set another runAsUser in container %s", o.podPath(), o.istiod.name))
	case !inherits && (agent.RunAsUser == nil || *agent.RunAsUser != 0) && !o.istiod.overridesModes && (o.istiod.root || o.istiod.user == nil && o.root):
		p.Warnings = append(p.Warnings, fmt.Sprintf("container %s runs as root (runAsUser is 0) without capability DAC_OVERRIDE, so it cannot read the agent's key: istiod will not start with it; remove runAsUser, or add the capability", o.istiod.name))
	}
}

// podPath is the path of the pod spec as people write it.
func (o *object) podPath() string {
	return strings.ReplaceAll(strings.TrimPrefix(o.pod, "/"), "/", ".")
}

// annotate records the digest on the pod template, and the note on the object itself. A note of an earlier version stays on
// the pod template until that changes anyway: removing it would restart the Deployment.
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

// setContainer makes one of the agent's containers the first or last of its list and removes the agent's others. A container
// that is there is completed where it is.
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

// addMount adds the mount of Istio's chart to istiod's container.
func (p *patch) addMount(o *object, volume string) {
	name, _ := json.Marshal(volume) // a string
	mount := json.RawMessage(`{"name":` + string(name) + `,"mountPath":"` + CACertsPath + `","readOnly":true}`)
	mounts := list{path: o.containers.entry(o.istiod.index) + "/volumeMounts", exists: o.istiod.hasMounts}
	p.insert(&mounts, false, mount, fmt.Sprintf("mount %s in container %s", CACertsPath, o.istiod.name))
}
