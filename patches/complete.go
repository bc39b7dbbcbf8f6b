// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// preservation is how much of a stored agent container an injection keeps.
type preservation int

const (
	// preserveNothing: an earlier configuration rendered the container, or a person wrote it.
	preserveNothing preservation = iota
	// preserveAdditions: no digest identifies the configuration, so every rendered field must be there.
	preserveAdditions
	// preserveChanges: this configuration rendered the container, and others have changed it since.
	preserveChanges
)

// preserves decides by the digest. A Pod is injected only when it is created, so its containers come from an earlier
// call for the same Pod or from its template.
func (i *Injector) preserves(o *object) preservation {
	_, injected := o.template.annotations[InjectedAnnotation]
	switch {
	case i.isCurrent(o):
		return preserveChanges
	case !i.rendered.annotate, injected && o.kind == Pod:
		return preserveAdditions
	}
	return preserveNothing
}

// isCurrent reports whether this configuration injected the object.
func (i *Injector) isCurrent(o *object) bool {
	return o.template.annotations[InjectedAnnotation] == i.rendered.digest
}

// completion corrects a stored agent container field by field, as far as the agent needs it to work. Other webhooks
// change such a container for good reasons: a mirror of the image, mounts, variables, limits, dropped capabilities.
type completion struct {
	p        *patch
	path     string // JSON pointer to the container
	stored   corev1.Container
	desired  *corev1.Container
	preserve preservation
}

// maxCorrections bounds the operations that complete a container: one that needs more is replaced. A Deployment of a
// megabyte must not become a patch of ten thousand operations, each of which the API server applies to the whole object.
const maxCorrections = 16

// complete corrects the container at index; it returns false if the container must be replaced.
func (p *patch) complete(o *object, l *list, index int, desired *corev1.Container, preserve preservation, s settings) bool {
	var corrections patch
	c := completion{p: &corrections, path: l.entry(index), desired: desired, preserve: preserve}
	if json.Unmarshal(l.items[index].raw, &c.stored) != nil || !c.starts() {
		return false
	}
	if preserve == preserveAdditions {
		c.configured(o.kind)
	} else {
		c.image()
	}
	c.command()
	c.env()
	c.mounts(o)
	c.ids(o)
	c.limitToPod(s.pod)
	if len(corrections.Operations) > maxCorrections {
		return false
	}
	p.Operations, p.Changes = append(p.Operations, corrections.Operations...), append(p.Changes, corrections.Changes...)
	return true
}

func (c *completion) set(field string, value any) {
	c.p.add("add", c.path+"/"+field, value, "correct "+field+" of container "+c.desired.Name)
}

func (c *completion) drop(field string) {
	c.p.add("remove", c.path+"/"+field, nil, "remove "+field+" of container "+c.desired.Name)
}

// configured corrects configured fields that the agent could work without. A Pod's resources belong to a
// VerticalPodAutoscaler.
func (c *completion) configured(kind Kind) {
	if !isMirrorOf(c.stored.Image, c.desired.Image) {
		c.set("image", c.desired.Image)
	}
	if c.stored.ImagePullPolicy != c.desired.ImagePullPolicy && c.stored.ImagePullPolicy != corev1.PullAlways {
		c.set("imagePullPolicy", c.desired.ImagePullPolicy)
	}
	if kind != Pod {
		c.resources()
	}
	switch stored := c.stored.SecurityContext; {
	case c.desired.SecurityContext == nil:
	case stored != nil && stored.Privileged != nil && *stored.Privileged: // the API server refuses it together with the rendered fields
		c.set("securityContext", c.desired.SecurityContext)
	default:
		c.merge("securityContext", tree(stored), tree(c.desired.SecurityContext))
	}
}

// resources merges the configured resources into the stored ones, unless a request would exceed its limit.
func (c *completion) resources() {
	merged := corev1.ResourceRequirements{Limits: maps.Clone(c.stored.Resources.Limits), Requests: maps.Clone(c.stored.Resources.Requests)}
	for _, list := range []struct {
		of   *corev1.ResourceList
		with corev1.ResourceList
	}{{&merged.Limits, c.desired.Resources.Limits}, {&merged.Requests, c.desired.Resources.Requests}} {
		if *list.of == nil {
			*list.of = corev1.ResourceList{}
		}
		maps.Copy(*list.of, list.with)
	}
	for name, request := range merged.Requests {
		if limit, limited := merged.Limits[name]; limited && request.Cmp(limit) > 0 {
			c.set("resources", c.desired.Resources)
			return
		}
	}
	c.merge("resources", tree(c.stored.Resources), tree(c.desired.Resources))
}

// merge sets the desired members of a field and keeps its others.
func (c *completion) merge(field string, stored, desired any) {
	desiredMembers, ok := desired.(map[string]any)
	members, _ := stored.(map[string]any)
	if !ok || (len(members) == 0 && len(desiredMembers) > 0) {
		if !reflect.DeepEqual(stored, desired) {
			c.set(field, desired)
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(desiredMembers)) {
		c.merge(field+"/"+escape(key), members[key], desiredMembers[key])
	}
}

// image replaces only another publisher's agent: a server-side apply of Gloo Mesh's guide, whose containers have the same
// names, merges its image into them.
func (c *completion) image() {
	if name(c.stored.Image) == name(c.desired.Image) && !isMirrorOf(c.stored.Image, c.desired.Image) && tag(c.stored.Image) != tag(c.desired.Image) {
		c.set("image", c.desired.Image)
	}
}

func (c *completion) command() {
	if len(c.stored.Command) > 0 {
		c.drop("command")
	}
	if !slices.Equal(c.stored.Args, c.desired.Args) {
		c.set("args", c.desired.Args)
	}
}

// env corrects the agent's own variables, removes duplicates and those not rendered, and adds missing configured ones.
// envFrom could set any of them.
func (c *completion) env() {
	if len(c.stored.EnvFrom) > 0 {
		c.drop("envFrom")
	}
	indexByName := map[string]int{} // the last one of a name counts
	var surplus []int
	for i, stored := range c.stored.Env {
		if before, twice := indexByName[stored.Name]; twice && isOwnVariable(stored.Name) {
			surplus = append(surplus, before)
		}
		indexByName[stored.Name] = i
	}
	hasEnv := len(c.stored.Env) > 0
	for _, desired := range c.desired.Env {
		at, exists := indexByName[desired.Name]
		delete(indexByName, desired.Name)
		change := "set " + desired.Name + " in container " + c.desired.Name
		switch {
		case !exists && !hasEnv:
			c.p.add("add", c.path+"/env", []corev1.EnvVar{desired}, change)
			hasEnv = true
		case !exists:
			c.p.add("add", c.path+"/env/-", desired, change)
		case (isOwnVariable(desired.Name) || c.preserve == preserveAdditions) && !sameVariable(c.stored.Env[at], desired):
			c.p.add("replace", entry(c.path+"/env", at), desired, change)
		}
	}
	for name, at := range indexByName {
		if isOwnVariable(name) {
			surplus = append(surplus, at)
		}
	}
	slices.Sort(surplus)
	for _, at := range slices.Backward(surplus) {
		c.p.add("remove", entry(c.path+"/env", at), nil, "unset "+c.stored.Env[at].Name+" in container "+c.desired.Name)
	}
}

func sameVariable(stored, desired corev1.EnvVar) bool {
	if stored.ValueFrom != nil && stored.ValueFrom.FieldRef != nil && stored.ValueFrom.FieldRef.APIVersion == "" {
		stored = *stored.DeepCopy()
		stored.ValueFrom.FieldRef.APIVersion = "v1" // an API server's default
	}
	return equality.Semantic.DeepEqual(stored, desired)
}

// mounts adds the desired mounts. It removes others at, above or below CACertsPath and VaultTokenPath, and mounts of volumes
// that the pod no longer has.
func (c *completion) mounts(o *object) {
	if len(c.stored.VolumeDevices) > 0 {
		c.drop("volumeDevices")
	}
	var surplus []int
	missing := slices.Clone(c.desired.VolumeMounts)
	for i, stored := range c.stored.VolumeMounts {
		at := slices.IndexFunc(missing, func(desired corev1.VolumeMount) bool { return isMounted(o, stored, desired) })
		switch {
		case at >= 0:
			missing = slices.Delete(missing, at, at+1)
		case relate(stored.MountPath) != elsewhere, meets(stored.MountPath, VaultTokenPath), stored.Name == VaultTokenVolume,
			o.volumes.index(stored.Name) < 0 && !strings.HasPrefix(stored.Name, tokenVolumePrefix),
			slices.ContainsFunc(c.desired.VolumeMounts, func(desired corev1.VolumeMount) bool { return clean(stored.MountPath) == clean(desired.MountPath) }):
			surplus = append(surplus, i)
		}
	}
	for _, i := range slices.Backward(surplus) {
		c.p.add("remove", entry(c.path+"/volumeMounts", i), nil, "unmount "+c.stored.VolumeMounts[i].MountPath+" from container "+c.desired.Name)
	}
	for i, desired := range missing {
		change := "mount " + desired.MountPath + " in container " + c.desired.Name
		if i == 0 && len(c.stored.VolumeMounts) == 0 {
			c.p.add("add", c.path+"/volumeMounts", []corev1.VolumeMount{desired}, change)
			continue
		}
		c.p.add("add", c.path+"/volumeMounts/-", desired, change)
	}
}

// tokenVolumePrefix starts the name of the volume with a service account token that the API server adds to every Pod
// (ServiceAccountVolumeName, plugin/pkg/admission/serviceaccount/admission.go, Kubernetes 1.37).
const tokenVolumePrefix = "kube-api-access-"

// isMounted reports whether a stored mount serves as the desired one. At TokenPath any volume of the pod does: the API
// server's admission plugin mounts a token in each container.
func isMounted(o *object, stored, desired corev1.VolumeMount) bool {
	if clean(stored.MountPath) != clean(desired.MountPath) {
		return false
	}
	if isTokenPath(desired.MountPath) {
		return o.volumes.index(stored.Name) >= 0
	}
	return stored.Name == desired.Name && stored.SubPath+stored.SubPathExpr == "" && (!stored.ReadOnly || desired.ReadOnly) &&
		(desired.MountPath != CACertsPath || stored.MountPath == CACertsPath)
}

// starts corrects the probe that keeps istiod waiting for a native sidecar's files. It returns false for a container of the
// other form, which has other fields.
func (c *completion) starts() bool {
	if c.desired.RestartPolicy == nil {
		return c.stored.RestartPolicy == nil && c.stored.StartupProbe == nil
	}
	if c.stored.RestartPolicy == nil || *c.stored.RestartPolicy != *c.desired.RestartPolicy {
		return false
	}
	if !isProbe(c.stored.StartupProbe, c.desired.StartupProbe) {
		c.set("startupProbe", c.desired.StartupProbe)
	}
	return true
}

// isProbe reports whether a probe has the desired handler and tolerates at least as many failures.
func isProbe(stored, desired *corev1.Probe) bool {
	if stored == nil || stored.HTTPGet == nil {
		return false
	}
	handler := stored.ProbeHandler.DeepCopy()
	if handler.HTTPGet.Scheme == "" {
		handler.HTTPGet.Scheme = corev1.URISchemeHTTP // an API server's default
	}
	return equality.Semantic.DeepEqual(handler, &desired.ProbeHandler) && stored.FailureThreshold >= desired.FailureThreshold
}

// ids sets the user and group ids of istiod's container, and removes ids noted from it that it no longer sets: istiod and
// the agent must both be able to read the key. Ids from others stay.
func (c *completion) ids(o *object) {
	desired, stored, note := &corev1.SecurityContext{}, c.stored.SecurityContext, o.storedNote()
	if c.desired.SecurityContext != nil {
		desired = c.desired.SecurityContext
	}
	if stored == nil {
		if desired.RunAsUser != nil || desired.RunAsGroup != nil {
			c.set("securityContext", desired)
		}
		return
	}
	for _, id := range []struct {
		field                 string
		desired, stored, note *int64
	}{
		{"runAsUser", desired.RunAsUser, stored.RunAsUser, note.User},
		{"runAsGroup", desired.RunAsGroup, stored.RunAsGroup, note.Group},
	} {
		switch {
		case id.desired != nil && (id.stored == nil || *id.stored != *id.desired):
			c.set("securityContext/"+id.field, *id.desired)
		case id.desired == nil && id.stored != nil && id.note != nil && *id.stored == *id.note:
			c.drop("securityContext/" + id.field)
		}
	}
}

func (c *completion) limitToPod(pod *corev1.ResourceRequirements) {
	if pod == nil {
		return
	}
	adapted := c.stored.Resources.DeepCopy()
	limitToPod(adapted, pod)
	if !equality.Semantic.DeepEqual(adapted, &c.stored.Resources) {
		c.set("resources", adapted)
	}
}

// tree converts a value to plain JSON values.
func tree(of any) any {
	raw, err := json.Marshal(of)
	if err != nil {
		return nil
	}
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return nil
	}
	return value
}
