// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// original is what the injection replaced, kept in OriginalAnnotation only
// where it differs from what Istio's chart writes (an optional Secret volume
// called cacerts, mounted in istiod's container), and what it added to that container.
type original struct {
	// Volume as it was; null when there was none; absent when it was the chart's.
	Volume json.RawMessage `json:"volume,omitempty"`
	// MountAdded tells that istiod's container had no mount at /etc/cacerts.
	MountAdded bool `json:"mountAdded,omitempty"`
	// MultiRootAdded tells that istiod's container had no istio.MultiRootVariable.
	MultiRootAdded bool `json:"multiRootAdded,omitempty"`
	// RootCADirAdded tells that istiod's container had no istio.RootCADirVariable.
	RootCADirAdded bool `json:"rootCADirAdded,omitempty"`
	// User and Group are the ids that the agent's containers have from istiod's.
	User  *int64 `json:"user,omitempty"`
	Group *int64 `json:"group,omitempty"`
}

// noVolume is original.Volume where there was none.
const noVolume = "null"

// note is what an earlier injection has kept; without a note, or with one that
// cannot be read, that it was the chart's.
func (o *object) note() original {
	was, _ := o.readNote()
	return was
}

// readNote gives the note, and whether there is none or it could be read.
func (o *object) readNote() (was original, readable bool) {
	kept := o.own.annotations[OriginalAnnotation]
	if kept == "" {
		kept = o.template.annotations[OriginalAnnotation] // an earlier version's
	}
	if kept == "" {
		return was, true
	}
	if json.Unmarshal([]byte(kept), &was) != nil || !was.isVolume() {
		return original{}, false
	}
	return was, true
}

// isVolume tells whether what is kept can be put back: a volume with a name and one source, null or nothing. It is never
// the injection's own volume, which earlier versions could note.
func (w *original) isVolume() bool {
	if w.Volume == nil || string(w.Volume) == noVolume {
		return true
	}
	var v corev1.Volume
	sources := sourcesOf(w.Volume)
	own := json.Unmarshal(w.Volume, &v) != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory && v.EmptyDir.SizeLimit != nil
	return !own && len(sources) == 1 && nameOf(w.Volume) != ""
}

// nameOf a volume given as JSON, "" where that is none.
func nameOf(volume json.RawMessage) string {
	var name []byte
	c := &cursor{text: volume}
	c.object(func(key []byte) {
		if string(key) == "name" {
			name = c.string()
		}
	})
	return string(name)
}

// text of the note, "" where there is nothing to keep.
func (w *original) text() string {
	if w.Volume == nil && !w.MountAdded && !w.MultiRootAdded && !w.RootCADirAdded && w.User == nil && w.Group == nil {
		return ""
	}
	text, _ := json.Marshal(w) // JSON that was read, and bools
	return string(text)
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

// original says what to keep of the object, and what of the volume that holds
// istiod's CA is replaced now: nil where that is nothing that anybody wrote.
func (i *Injector) original(o *object, name string) (was original, replaced json.RawMessage) {
	was = o.note() // one that cannot be read is written anew
	was.MultiRootAdded = i.rendered.multiRoot && (was.MultiRootAdded || !o.istiod.has(istio.MultiRootVariable))
	if !o.istiod.has(istio.RootCADirVariable) {
		was.RootCADirAdded = i.rendered.setsRootCADir()
	}
	was.User, was.Group = nil, nil
	if i.rendered.takesIDs {
		was.User, was.Group = o.istiod.user, o.istiod.group
	}
	was.MountAdded = was.MountAdded || o.istiod.volume == ""

	at := o.volumes.index(name)
	switch {
	case at < 0:
		was.Volume = json.RawMessage(noVolume)
	case i.isOurs(o, o.volumes.items[at]):
		// The note still holds.
	default:
		replaced = canonical(withoutEmptyDir(o.volumes.items[at].raw))
		was.Volume = replaced
		if isChartVolume(replaced, o.defaulted) {
			was.Volume = nil
		}
	}
	return was, replaced
}

// isOurs tells whether the volume is an earlier injection's, whatever was done
// to it since. Somebody may have taken out both of the agent's containers and
// the annotations: then it is still just what is injected.
func (i *Injector) isOurs(o *object, volume named) bool {
	if !emptyDirOnly(volume.raw) {
		return false
	}
	want := i.rendered.volume
	want.Name = volume.name
	moved := slices.ContainsFunc(o.agentsVolumes, func(name string) bool { return o.volumes.index(name) >= 0 })
	return isVolume(volume.raw, want) || slices.Contains(o.agentsVolumes, volume.name) || !moved && (o.hasAgent() || o.annotated())
}

// canonical is the same JSON, written in the one way in which encoding/json
// writes it: a note must not change because somebody has written the same again.
func canonical(raw json.RawMessage) json.RawMessage {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return raw
	}
	text, _ := json.Marshal(value) // JSON that was read
	return text
}

// emptyDirOnly tells whether the volume is an emptyDir, and nothing besides.
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
