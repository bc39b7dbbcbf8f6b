// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// storedNote is what the injection replaced, kept in OriginalAnnotation only
// where it differs from what Istio's chart writes (an optional Secret volume
// called cacerts, mounted in istiod's container), and what it added to that container.
type originalNote struct {
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

// noVolume is originalNote.Volume where there was none.
const noVolume = "null"

// storedNote is what an earlier injection has kept; without a note, or with one that
// cannot be read, that it was the chart's.
func (o *object) storedNote() originalNote {
	note, _ := o.parseNote()
	return note
}

// parseNote gives the note, and whether there is none or it could be read.
func (o *object) parseNote() (note originalNote, readable bool) {
	kept := o.own.annotations[OriginalAnnotation]
	if kept == "" {
		kept = o.template.annotations[OriginalAnnotation] // an earlier version's
	}
	if kept == "" {
		return note, true
	}
	if json.Unmarshal([]byte(kept), &note) != nil || !note.isRestorable() {
		return originalNote{}, false
	}
	return note, true
}

// isRestorable tells whether what is kept can be put back: a volume with a name and one source, null or nothing. It is never
// the injection's own volume, which earlier versions could note.
func (n *originalNote) isRestorable() bool {
	if n.Volume == nil || string(n.Volume) == noVolume {
		return true
	}
	var v corev1.Volume
	sources := sourcesOf(n.Volume)
	own := json.Unmarshal(n.Volume, &v) != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory && v.EmptyDir.SizeLimit != nil
	return !own && len(sources) == 1 && nameOf(n.Volume) != ""
}

// text of the note, "" where there is nothing to keep.
func (n *originalNote) text() string {
	if n.Volume == nil && !n.MountAdded && !n.MultiRootAdded && !n.RootCADirAdded && n.User == nil && n.Group == nil {
		return ""
	}
	text, _ := json.Marshal(n) // JSON that was read, and bools
	return string(text)
}

// newNote says what to keep of the object, and what of the volume that holds
// istiod's CA is replaced now: nil where that is nothing that anybody wrote.
func (i *Injector) newNote(o *object, name string) (note originalNote, replaced json.RawMessage) {
	note = o.storedNote() // one that cannot be read is written anew
	note.MultiRootAdded = i.rendered.multiRoot && (note.MultiRootAdded || !o.istiod.has(istio.MultiRootVariable))
	if !o.istiod.has(istio.RootCADirVariable) {
		note.RootCADirAdded = i.rendered.addsRootCADir()
	}
	note.User, note.Group = nil, nil
	if i.rendered.copiesIDs {
		note.User, note.Group = o.istiod.user, o.istiod.group
	}
	note.MountAdded = note.MountAdded || o.istiod.volume == ""

	at := o.volumes.index(name)
	switch {
	case at < 0:
		note.Volume = json.RawMessage(noVolume)
	case i.isInjected(o, o.volumes.items[at]):
		// The note still holds.
	default:
		replaced = canonical(withoutEmptyDir(o.volumes.items[at].raw))
		note.Volume = replaced
		if isChartVolume(replaced, o.defaulted) {
			note.Volume = nil
		}
	}
	return note, replaced
}

// isInjected tells whether the volume is an earlier injection's, whatever was done
// to it since. Somebody may have taken out both of the agent's containers and
// the annotations: then it is still just what is injected.
func (i *Injector) isInjected(o *object, volume element) bool {
	if !emptyDirOnly(volume.raw) {
		return false
	}
	desired := i.rendered.volume
	desired.Name = volume.name
	moved := slices.ContainsFunc(o.agentVolumes, func(name string) bool { return o.volumes.index(name) >= 0 })
	return isDesiredVolume(volume.raw, desired) || slices.Contains(o.agentVolumes, volume.name) || !moved && (o.hasAgent() || o.annotated())
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

// maxNotedVolume is the most bytes of a volume that are noted: an object's annotations have 256 KiB together
// (ValidateAnnotations, apimachinery/pkg/api/validation, Kubernetes 1.37).
const maxNotedVolume = 32 << 10
