// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"strings"
)

// remove is the inverse of inject; it writes nothing where nothing was injected.
func remove(o *object) Result {
	var p patch
	if !o.hasAgent() && !o.annotated() {
		return p.Result
	}
	note, name := o.storedNote(), o.caVolume()
	if o.istiod != nil {
		if note.MountAdded {
			p.removeMount(o, name)
		}
		p.unsetVariables(o, note)
	}
	p.removeVolumes(o, name, note.Volume)
	if agents := o.initContainers.agents(); len(agents) > 0 && len(agents) == len(o.initContainers.items) {
		p.add("remove", o.initContainers.path, nil, "remove container "+o.initContainers.items[0].name)
	} else {
		p.drop(&o.initContainers)
	}
	p.drop(&o.containers)
	p.removeAnnotations(o)
	return p.Result
}

// describeRemoval says, for a person, what istiod starts with once the agent is removed.
func (o *object) describeRemoval() string {
	note, readable := o.parseNote()
	name := o.caVolume()
	const own = "a root of its own that no other cluster trusts"
	restored, restore := restoredVolume(o, name, note.Volume)
	switch {
	case !readable:
		return "annotation " + OriginalAnnotation + ", which keeps its earlier volume, cannot be read, so istiod starts anew with what Secret cacerts holds, as by Istio's chart, or else with " + own
	case restore && restored == nil:
		return "it had no volume at " + CACertsPath + " before, so istiod starts anew with " + own
	case !restore:
		return "istiod starts anew with what volume " + name + " holds, or else with " + own
	case nameOf(restored) == CACertsVolume && isChartVolume(restored, o.defaulted):
		return "istiod starts anew with what Secret cacerts holds, or else with " + own
	}
	return "istiod starts anew with what volume " + name + " (" + strings.Join(sourcesOf(restored), ", ") + ") holds, or else with " + own
}

func (p *patch) removeMount(o *object, volume string) {
	mounts := list{path: o.containers.entry(o.istiod.index) + "/volumeMounts"}
	for i, mount := range o.istiod.mounts {
		if string(mount.volume) != volume || mount.at != atCACerts {
			continue
		}
		at := mounts.entry(i)
		if len(o.istiod.mounts) == 1 {
			at = mounts.path
		}
		p.add("remove", at, nil, "unmount "+CACertsPath+" from container "+o.istiod.name)
		return
	}
}

func (p *patch) removeAnnotations(o *object) {
	p.removeFrom(o.template, InjectedAnnotation, OriginalAnnotation)
	if o.own != o.template {
		p.removeFrom(o.own, OriginalAnnotation)
	}
}
