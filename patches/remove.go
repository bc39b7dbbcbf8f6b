// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// original is what the injection replaced, kept in OriginalAnnotation only
// where it differs from what Istio's chart writes (an optional Secret volume
// called cacerts, mounted in istiod's container), and what it added to that container.
type original struct {
	// Volume as it was; null when there was none; absent when it was the chart's.
	Volume json.RawMessage `json:"volume,omitempty"`
	// MountAdded tells that istiod's container had no mount at /etc/cacerts.
	MountAdded bool `json:"mountAdded,omitempty"`
	// MultiRootAdded tells that istiod's container had no MultiRootVariable.
	MultiRootAdded bool `json:"multiRootAdded,omitempty"`
	// RootCADirAdded tells that istiod's container had no RootCADirVariable.
	RootCADirAdded bool `json:"rootCADirAdded,omitempty"`
}

// note is what an earlier injection has kept; without a note, or with an unreadable one, that it was the chart's.
func (o *object) note() (was original) {
	if kept := o.annotations[OriginalAnnotation]; kept != "" {
		_ = json.Unmarshal([]byte(kept), &was)
	}
	return was
}

// chartVolume is the volume of Istio's chart since 1.5 (istio-discovery,
// templates/deployment.yaml), as written by hand or as stored.
func chartVolume(name string, defaulted bool) json.RawMessage {
	volume := corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: CACertsVolume, Optional: new(true)},
	}}
	if defaulted {
		volume.Secret.DefaultMode = new(corev1.SecretVolumeSourceDefaultMode)
	}
	raw, _ := json.Marshal(volume) // a fixed value of an API type
	return raw
}

// isChartVolume tells whether the volume is chartVolume, however it is written.
func isChartVolume(volume []byte, defaulted bool) bool {
	var name, secretName, optional, defaultMode []byte
	others := false
	c := &cursor{text: volume}
	c.object(func(key []byte) {
		switch string(key) {
		case "name":
			name = c.string()
		case "secret":
			c.object(func(key []byte) {
				switch string(key) {
				case "secretName":
					secretName = c.string()
				case "optional":
					optional = c.skip()
				case "defaultMode":
					defaultMode = c.skip()
				default:
					others = true
				}
			})
		default:
			others = true
		}
	})
	mode := ""
	if defaulted {
		mode = "420"
	}
	return c.err == nil && !others && string(name) == CACertsVolume && string(secretName) == CACertsVolume &&
		string(optional) == "true" && string(defaultMode) == mode
}

// original says what to write in OriginalAnnotation, "" for nothing.
func (i *Injector) original(o *object) string {
	was := o.note() // an unreadable one is written anew
	was.MultiRootAdded = i.rendered.multiRoot && (was.MultiRootAdded || !o.istiod.has(MultiRootVariable))
	was.RootCADirAdded = i.rendered.setsRootCADir() && (was.RootCADirAdded || !o.istiod.has(RootCADirVariable))
	name := o.istiod.volume
	if name == "" {
		name, was.MountAdded = CACertsVolume, true
	}

	at := o.volumes.index(name)
	switch {
	case at < 0:
		was.Volume = json.RawMessage("null")
	case o.hasAgent() && emptyDirOnly(o.volumes.items[at].raw):
		// An earlier injection, whose note still holds.
	default:
		was.Volume = withoutEmptyDir(o.volumes.items[at].raw)
		if isChartVolume(was.Volume, o.defaulted) {
			was.Volume = nil
		}
	}
	if was.Volume == nil && !was.MountAdded && !was.MultiRootAdded && !was.RootCADirAdded {
		return ""
	}
	note, _ := json.Marshal(was) // JSON that was read, and bools
	return string(note)
}

// emptyDirOnly tells whether the volume is an emptyDir, and nothing besides.
// Beside an agent that is an earlier injection's, whatever was done to it since.
func emptyDirOnly(volume []byte) bool {
	sources := sourcesOf(volume)
	return len(sources) == 1 && sources[0] == "emptyDir"
}

func inMemory(volume []byte) bool {
	var v corev1.Volume
	return json.Unmarshal(volume, &v) == nil && v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory
}

// sourcesOf a volume: all of its members but the name.
func sourcesOf(volume []byte) []string {
	var sources []string
	c := &cursor{text: volume}
	c.object(func(key []byte) {
		if string(key) != "name" && c.peek() != 'n' { // null: written, and not there
			sources = append(sources, string(key))
		}
	})
	return sources
}

// withoutEmptyDir undoes the merge of a server-side apply, in which the owner's
// own source stands beside the injected emptyDir.
func withoutEmptyDir(volume []byte) json.RawMessage {
	var members map[string]json.RawMessage
	if len(sourcesOf(volume)) < 2 || json.Unmarshal(volume, &members) != nil {
		return volume
	}
	delete(members, "emptyDir")
	maps.DeleteFunc(members, func(_ string, value json.RawMessage) bool { return string(value) == "null" })
	raw, _ := json.Marshal(members) // JSON that was read
	return raw
}

// remove is the inverse of inject; it writes nothing where nothing was injected.
func remove(o *object) Result {
	var p patch
	if !o.hasAgent() && !o.annotated() {
		return p.Result
	}
	was, name := o.note(), ""
	if o.istiod != nil {
		if name = o.istiod.volume; name == "" {
			name = CACertsVolume
		}
		if was.MountAdded {
			p.removeMount(o, name)
		}
		p.unsetVariables(o, was)
	}
	p.removeVolumes(o, name, was.Volume)
	if ours := o.initContainers.agents(); len(ours) > 0 && len(ours) == len(o.initContainers.items) {
		p.add("remove", o.initContainers.at, nil, "remove container "+o.initContainers.items[0].name)
	} else {
		p.drop(&o.initContainers)
	}
	p.drop(&o.containers)
	p.removeAnnotations(o)
	return p.Result
}

// removeVolumes restores the volume called name and takes out the token's, the last one first, so that the indices
// before it stay true.
func (p *patch) removeVolumes(o *object, name string, was json.RawMessage) {
	restored, restore := restoredVolume(o, name, was)
	cacerts, token := o.volumes.index(name), o.volumes.index(VaultTokenVolume)
	gone := 0
	if token >= 0 {
		gone++
	}
	if restore && restored == nil {
		gone++
	}
	if gone > 0 && gone == len(o.volumes.items) {
		p.add("remove", o.volumes.at, nil, "remove volumes")
		return
	}
	restoreIt := func() {
		switch {
		case restore && restored == nil:
			p.add("remove", o.volumes.entry(cacerts), nil, "remove volume "+name)
		case restore:
			p.add("replace", o.volumes.entry(cacerts), restored, "put volume "+name+" back")
		}
	}
	if cacerts > token {
		restoreIt()
	}
	if token >= 0 {
		p.add("remove", o.volumes.entry(token), nil, "remove volume "+VaultTokenVolume)
	}
	if cacerts < token {
		restoreIt()
	}
}

// restoredVolume is what the volume called name becomes, nil when there was none; restore is false where the volume is
// not, or not any more, an injection's.
func restoredVolume(o *object, name string, was json.RawMessage) (restored json.RawMessage, restore bool) {
	at := o.volumes.index(name)
	if at < 0 || !slices.Contains(sourcesOf(o.volumes.items[at].raw), "emptyDir") {
		return nil, false // somebody has put it back already
	}
	current := o.volumes.items[at].raw
	switch {
	case !emptyDirOnly(current):
		was = withoutEmptyDir(current)
	case was == nil:
		was = chartVolume(name, o.defaulted)
	}
	if string(was) == "null" {
		return nil, true
	}
	return was, true
}

func (p *patch) removeMount(o *object, volume string) {
	mounts := list{at: o.containers.entry(o.istiod.index) + "/volumeMounts"}
	for i, mount := range o.istiod.mounts {
		if string(mount.volume) != volume || mount.at != atCACerts {
			continue
		}
		at := mounts.entry(i)
		if len(o.istiod.mounts) == 1 {
			at = mounts.at
		}
		p.add("remove", at, nil, "unmount "+CACertsPath+" from container "+o.istiod.name)
		return
	}
}

func (p *patch) removeAnnotations(o *object) {
	var ours []string
	for _, key := range []string{InjectedAnnotation, OriginalAnnotation} {
		if _, exists := o.annotations[key]; exists {
			ours = append(ours, key)
		}
	}
	at := o.podMeta + "/annotations"
	if len(ours) > 0 && len(ours) == len(o.annotations) {
		p.add("remove", at, nil, "remove annotation "+InjectedAnnotation)
		return
	}
	for _, key := range ours {
		p.add("remove", at+"/"+escape(key), nil, "remove annotation "+key)
	}
}
