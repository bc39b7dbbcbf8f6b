// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// caVolume returns the name of the volume that holds istiod's CA: the one that istiod mounts, else an earlier injection's,
// else the chart's. A volume of the chart's name that is mounted elsewhere has another purpose and keeps its content.
func (o *object) caVolume() string {
	switch {
	case o.istiod != nil && o.istiod.volume != "":
		return o.istiod.volume
	case len(o.agentVolumes) > 0:
		return o.agentVolumes[0]
	case o.mounted[caCertsVolume]:
		return OwnCACertsVolume
	}
	return caCertsVolume
}

// volumeEdit replaces or removes a volume of the list.
type volumeEdit struct {
	at     int
	raw    json.RawMessage // nil removes the volume
	change string
}

// injectVolumes replaces the volume called name as a whole: a merge by the API server leaves `secret` and `emptyDir` side
// by side, which validation refuses. It also adds, updates or removes the volume with Vault's token, and restores the
// volume of a mount that has moved.
func (i *Injector) injectVolumes(p *patch, o *object, name string) {
	desired, raw := i.rendered.volume, i.rendered.json.volume
	if name != desired.Name {
		desired.Name = name
		raw, _ = json.Marshal(desired) // the same type was marshalled when it was rendered
	}
	token, tokenAt := i.rendered.token, o.volumes.index(VaultTokenVolume)

	edits := o.staleVolumes(name)
	at := o.volumes.index(name)
	if at >= 0 && !isDesiredVolume(o.volumes.items[at].raw, desired) {
		edits = append(edits, volumeEdit{at: at, raw: raw, change: "make volume " + name + " in-memory"})
	}
	switch {
	case tokenAt < 0:
	case token == nil:
		edits = append(edits, volumeEdit{at: tokenAt, change: "remove volume " + VaultTokenVolume})
	case !isTokenVolume(o.volumes.items[tokenAt].raw, *token):
		edits = append(edits, volumeEdit{at: tokenAt, raw: i.rendered.json.token, change: "update volume " + VaultTokenVolume})
	}
	p.editVolumes(o, edits)
	if at < 0 {
		p.insert(&o.volumes, false, raw, "add in-memory volume "+name)
	}
	if token != nil && tokenAt < 0 {
		p.insert(&o.volumes, false, i.rendered.json.token, "add volume "+VaultTokenVolume)
	}
}

// staleVolumes restores injected volumes that istiod's container no longer mounts, because its owner has moved the mount.
func (o *object) staleVolumes(name string) []volumeEdit {
	var edits []volumeEdit
	for _, stale := range o.agentVolumes {
		at := o.volumes.index(stale)
		if stale == name || stale == VaultTokenVolume || at < 0 || !slices.Contains(sourcesOf(o.volumes.items[at].raw), "emptyDir") {
			continue
		}
		restored, _ := restoredVolume(o, stale, o.storedNote().Volume)
		switch mounted := o.mounted[stale]; {
		case mounted && restored == nil:
			continue
		case !mounted && emptyDirOnly(o.volumes.items[at].raw):
			restored = nil
		}
		change := "restore volume " + stale
		if restored == nil {
			change = "remove volume " + stale
		}
		edits = append(edits, volumeEdit{at: at, raw: restored, change: change})
	}
	return edits
}

// removeVolumes restores the volume called name, and removes the token's and those of moved mounts.
func (p *patch) removeVolumes(o *object, name string, noted json.RawMessage) {
	var edits []volumeEdit
	restored, restore := restoredVolume(o, name, noted)
	switch at := o.volumes.index(name); {
	case restore && restored == nil:
		edits = append(edits, volumeEdit{at: at, change: "remove volume " + name})
	case restore:
		edits = append(edits, volumeEdit{at: at, raw: restored, change: "restore volume " + name})
	}
	if at := o.volumes.index(VaultTokenVolume); at >= 0 {
		edits = append(edits, volumeEdit{at: at, change: "remove volume " + VaultTokenVolume})
	}
	edits = append(edits, o.staleVolumes(name)...)
	remaining := len(o.volumes.items)
	for _, edit := range edits {
		if edit.raw == nil {
			remaining--
		}
	}
	if remaining == 0 && len(edits) > 0 {
		p.add("remove", o.volumes.path, nil, "remove volumes")
		return
	}
	p.editVolumes(o, edits)
}

// restoredVolume returns the original of the volume called name, nil if there was none. restore is false if the volume is no
// injected one.
func restoredVolume(o *object, name string, noted json.RawMessage) (restored json.RawMessage, restore bool) {
	at := o.volumes.index(name)
	if at < 0 || !slices.Contains(sourcesOf(o.volumes.items[at].raw), "emptyDir") {
		return nil, false // restored already
	}
	current := o.volumes.items[at].raw
	switch {
	case !emptyDirOnly(current):
		noted = withoutEmptyDir(current)
	case noted == nil, string(noted) != noVolume && nameOf(noted) != name:
		noted = chartVolume(name, o.defaulted)
	}
	if string(noted) == noVolume {
		return nil, true
	}
	return noted, true
}

// editVolumes applies the edits, the last volume first, so that the other indices stay valid.
func (p *patch) editVolumes(o *object, edits []volumeEdit) {
	slices.SortFunc(edits, func(a, b volumeEdit) int { return b.at - a.at })
	for _, edit := range edits {
		if edit.raw == nil {
			p.add("remove", o.volumes.entry(edit.at), nil, edit.change)
		} else {
			p.add("replace", o.volumes.entry(edit.at), edit.raw, edit.change)
		}
	}
}

func isTokenVolume(stored []byte, desired corev1.Volume) bool {
	var actual corev1.Volume
	if json.Unmarshal(stored, &actual) != nil || actual.Projected == nil || len(sourcesOf(stored)) != 1 {
		return false
	}
	desired = *desired.DeepCopy()
	for _, projected := range []*corev1.ProjectedVolumeSource{actual.Projected, desired.Projected} {
		if projected.DefaultMode == nil {
			projected.DefaultMode = new(corev1.ProjectedVolumeSourceDefaultMode)
		}
	}
	return equality.Semantic.DeepEqual(actual, desired)
}

func isDesiredVolume(stored []byte, desired corev1.Volume) bool {
	var actual corev1.Volume
	return emptyDirOnly(stored) && json.Unmarshal(stored, &actual) == nil && equality.Semantic.DeepEqual(actual, desired)
}

// chartVolume is the volume of Istio's chart since 1.5 (istio-discovery, templates/deployment.yaml), as written or as stored.
func chartVolume(name string, defaulted bool) json.RawMessage {
	volume := corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: caCertsVolume, Optional: new(true)},
	}}
	if defaulted {
		volume.Secret.DefaultMode = new(corev1.SecretVolumeSourceDefaultMode)
	}
	raw, _ := json.Marshal(volume) // a fixed value of an API type
	return raw
}

// isChartVolume reports whether the volume equals chartVolume.
func isChartVolume(volume json.RawMessage, defaulted bool) bool {
	return bytes.Equal(canonical(volume), canonical(chartVolume(caCertsVolume, defaulted)))
}

func emptyDirOnly(volume []byte) bool {
	sources := sourcesOf(volume)
	return len(sources) == 1 && sources[0] == "emptyDir"
}

func inMemory(volume []byte) bool {
	var v corev1.Volume
	return json.Unmarshal(volume, &v) == nil && v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumMemory
}

// sourcesOf returns the members of a volume other than its name.
func sourcesOf(volume []byte) []string {
	var sources []string
	c := &cursor{text: volume}
	c.object(func(key []byte) {
		if string(key) != "name" && c.peek() != 'n' { // null means absent
			sources = append(sources, string(key))
		}
	})
	return sources
}

// withoutEmptyDir undoes the merge of a server-side apply, which leaves the owner's source beside the injected emptyDir.
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
