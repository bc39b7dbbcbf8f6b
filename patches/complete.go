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

// preservation says how much of a stored container of the agent's stays.
type preservation int

const (
	// preserveNothing stays: an earlier configuration rendered it, or somebody wrote it by hand.
	preserveNothing preservation = iota
	// preserveAdditions stay: no digest tells which configuration rendered it, so what is rendered must be there.
	preserveAdditions
	// preserveChanges stay: it was rendered from this configuration, and others have changed it since.
	preserveChanges
)

// preserves decides it by the digest. A Pod is injected when it is created only, so what stands in it was put there by an
// earlier call for the same Pod, or came with its template.
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

// isCurrent tells whether the object was injected by this configuration.
func (i *Injector) isCurrent(o *object) bool {
	return o.template.annotations[InjectedAnnotation] == i.rendered.digest
}

// completion puts right what the agent needs to work on one of its stored containers, field by field. Other webhooks
// rightly change such a container: they name a mirror of the image, add mounts, variables and limits, drop capabilities.
type completion struct {
	p        *patch
	path     string // JSON pointer to the container
	stored   corev1.Container
	desired  *corev1.Container
	preserve preservation
}

// maxCorrections is how many operations complete a container at most: one that needs more is replaced. A Deployment of a
// megabyte must not become a patch of ten thousand operations, each of which the API server applies to all of it.
const maxCorrections = 16

// complete the container at l's index; false where it must be replaced.
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
	c.p.add("add", c.path+"/"+field, value, "put "+field+" of container "+c.desired.Name+" right")
}

func (c *completion) drop(field string) {
	c.p.add("remove", c.path+"/"+field, nil, "remove "+field+" of container "+c.desired.Name)
}

// configured puts right what the configuration says and the agent could work without. A Pod's resources are a
// VerticalPodAutoscaler's to change.
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
	case stored != nil && stored.Privileged != nil && *stored.Privileged: // no API server takes it beside what is rendered
		c.set("securityContext", c.desired.SecurityContext)
	default:
		c.merge("securityContext", tree(stored), tree(c.desired.SecurityContext))
	}
}

// resources are those of the configuration and others' besides, where a request may not exceed its limit.
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

// merge puts members of a field right and leaves what it has besides.
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

// image is whatever others made of it, but for another publisher's agent: a server-side apply of Gloo Mesh's guide, whose
// containers have the names of ours, merges its image into them.
func (c *completion) image() {
	if name(c.stored.Image) == name(c.desired.Image) && !isMirrorOf(c.stored.Image, c.desired.Image) && tag(c.stored.Image) != tag(c.desired.Image) {
		c.set("image", c.desired.Image)
	}
}

// command is the image's own, with the wanted subcommand.
func (c *completion) command() {
	if len(c.stored.Command) > 0 {
		c.drop("command")
	}
	if !slices.Equal(c.stored.Args, c.desired.Args) {
		c.set("args", c.desired.Args)
	}
}

// env puts the agent's own variables right, each of them once, and takes out those that are not rendered; of the
// configuration's others it adds those that are missing. envFrom could set any of them.
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

// mounts has each of the wanted mounts at its path, nothing else at, above or below CACertsPath and VaultTokenPath, and no
// mount of a volume that the pod has not: one of those that istiod had, and its owner has taken out since.
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
		case relate([]byte(stored.MountPath)) != elsewhere, meets(stored.MountPath, VaultTokenPath), stored.Name == VaultTokenVolume,
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

// tokenVolumePrefix begins the name of the volume that the API server gives every Pod with a token of its service account
// (ServiceAccountVolumeName, plugin/pkg/admission/serviceaccount/admission.go, Kubernetes 1.37).
const tokenVolumePrefix = "kube-api-access-"

// isMounted tells whether a container has a wanted mount. At TokenPath any token will do that the Pod has: the API
// server's admission plugin gives each container one.
func isMounted(o *object, stored, desired corev1.VolumeMount) bool {
	if clean(stored.MountPath) != clean(desired.MountPath) {
		return false
	}
	if isTokenPath([]byte(desired.MountPath)) {
		return o.volumes.index(stored.Name) >= 0
	}
	return stored.Name == desired.Name && stored.SubPath+stored.SubPathExpr == "" && (!stored.ReadOnly || desired.ReadOnly) &&
		(desired.MountPath != CACertsPath || stored.MountPath == CACertsPath)
}

// starts puts right what holds istiod back until the files are in place: the init container by its end, the native sidecar
// by its probe. It reports false for a container of the other form, which has fields that go with that.
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

// isProbe tells whether a probe asks what the wanted one asks, and no less often.
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

// ids are istiod's, where its container sets any, and not any more where it does not: else one of both could not read the
// key. Others may have set them where the injection has not.
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

// limitToPod fits the container's resources into the pod's own, which somebody may have set since.
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

// tree is a value as plain JSON values.
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
