// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// originalNote is the content of OriginalAnnotation: what the injection replaced, where it differs from Istio's chart (an
// optional Secret volume named cacerts, mounted in istiod's container), and what it added to that container.
type originalNote struct {
	// Volume is the original volume: null if there was none, absent if it was the chart's.
	Volume json.RawMessage `json:"volume,omitempty"`
	// MountAdded is true if istiod's container had no mount at /etc/cacerts.
	MountAdded bool `json:"mountAdded,omitempty"`
	// MultiRootAdded is true if istiod's container did not set istio.MultiRootVariable.
	MultiRootAdded bool `json:"multiRootAdded,omitempty"`
	// RootCADirAdded is true if istiod's container did not set istio.RootCADirVariable.
	RootCADirAdded bool `json:"rootCADirAdded,omitempty"`
	// User and Group are the ids that the agent's containers have from istiod's.
	User  *int64 `json:"user,omitempty"`
	Group *int64 `json:"group,omitempty"`
}

// noVolume is originalNote.Volume if there was no volume.
const noVolume = "null"

// storedNote returns the note of an earlier injection; an empty one stands for the chart's volume.
func (o *object) storedNote() originalNote {
	note, _ := o.parseNote()
	return note
}

// parseNote returns the note; readable is false if there is one that cannot be restored.
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

// isRestorable reports whether the volume is null, absent, or has a name and one source. The injection's own volume, which
// earlier versions could note, is never restored.
func (n *originalNote) isRestorable() bool {
	if n.Volume == nil || string(n.Volume) == noVolume {
		return true
	}
	var v corev1.Volume
	sources := sourcesOf(n.Volume)
	own := json.Unmarshal(n.Volume, &v) != nil || v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory && v.EmptyDir.SizeLimit != nil
	return !own && len(sources) == 1 && nameOf(n.Volume) != ""
}

// text encodes the note, as "" if it is empty.
func (n *originalNote) text() string {
	if n.Volume == nil && !n.MountAdded && !n.MultiRootAdded && !n.RootCADirAdded && n.User == nil && n.Group == nil {
		return ""
	}
	text, _ := json.Marshal(n) // JSON that was read, and bools
	return string(text)
}

// newNote returns the note to store, and the volume that this injection replaces: nil if that is an injected one.
func (i *Injector) newNote(o *object, name string) (note originalNote, replaced json.RawMessage) {
	note = o.storedNote() // one that cannot be read is written anew
	note.MultiRootAdded = i.rendered.multiRoot && (o.multiRootAdded() || !o.istiod.has(istio.MultiRootVariable))
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
		if o.istiod.volume != "" && !slices.Contains(o.agentVolumes, name) {
			note.MountAdded = false // its owner has mounted another volume since
		}
		replaced = canonical(withoutEmptyDir(o.volumes.items[at].raw))
		note.Volume = replaced
		if isChartVolume(replaced, o.defaulted) || !note.isRestorable() { // one like the injection's own could not be read again
			note.Volume = nil
		}
	}
	return note, replaced
}

// isInjected reports whether an earlier injection made the volume, even if the agent's containers and the annotations are
// gone since.
func (i *Injector) isInjected(o *object, volume element) bool {
	if !emptyDirOnly(volume.raw) {
		return false
	}
	desired := i.rendered.volume
	desired.Name = volume.name
	moved := slices.ContainsFunc(o.agentVolumes, func(name string) bool { return o.volumes.index(name) >= 0 })
	return isDesiredVolume(volume.raw, desired) || slices.Contains(o.agentVolumes, volume.name) || !moved && (o.hasAgent() || o.annotated())
}

// canonical rewrites JSON as encoding/json writes it: a note must not change with the order of an author's keys.
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

// maxNotedVolume bounds the noted volume in bytes: an object's annotations have 256 KiB together
// (ValidateAnnotations, apimachinery/pkg/api/validation, Kubernetes 1.37).
const maxNotedVolume = 32 << 10
