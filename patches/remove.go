// SPDX-License-Identifier: Apache-2.0

package patches

import "strings"

// remove is the inverse of inject.
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
	p.removeFrom(o.template, InjectedAnnotation, OriginalAnnotation)
	if o.own != o.template {
		p.removeFrom(o.own, OriginalAnnotation)
	}
	return p.Result
}

// describeRemoval states which CA istiod starts with after the removal.
func (o *object) describeRemoval() string {
	note, readable := o.parseNote()
	name := o.caVolume()
	const own = "creates its own root, which no other cluster trusts"
	restored, restore := restoredVolume(o, name, note.Volume)
	switch {
	case !readable:
		return "annotation " + OriginalAnnotation + ", which records the original volume, cannot be read: istiod restarts with the CA in Secret cacerts, as in Istio's chart, or " + own
	case restore && restored == nil:
		return "it had no volume at " + CACertsPath + " before: istiod restarts and " + own
	case !restore:
		return "istiod restarts with the CA in volume " + name + ", or " + own
	case nameOf(restored) == caCertsVolume && isChartVolume(restored, o.defaulted):
		return "istiod restarts with the CA in Secret cacerts, or " + own
	}
	return "istiod restarts with the CA in volume " + name + " (" + strings.Join(sourcesOf(restored), ", ") + "), or " + own
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
