// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
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

// text of the note, "" where there is nothing to keep.
func (w *original) text() string {
	if w.Volume == nil && !w.MountAdded && !w.MultiRootAdded && !w.RootCADirAdded && w.User == nil && w.Group == nil {
		return ""
	}
	text, _ := json.Marshal(w) // JSON that was read, and bools
	return string(text)
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

// maxNotedVolume is the most bytes of a volume that are noted: an object's annotations have 256 KiB together
// (ValidateAnnotations, apimachinery/pkg/api/validation, Kubernetes 1.37).
const maxNotedVolume = 32 << 10
