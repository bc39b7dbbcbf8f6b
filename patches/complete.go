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

// keeping says how much of a stored container of the agent's stays.
type keeping int

const (
	// nothing stays: an earlier configuration rendered it, or somebody wrote it by hand.
	nothing keeping = iota
	// additions stay: no digest tells which configuration rendered it, so what is rendered must be there.
	additions
	// changes stay: it was rendered from this configuration, and others have changed it since.
	changes
)

// keeps decides it by the digest. A Pod is injected when it is created only, so what stands in it was put there by an
// earlier call for the same Pod, or came with its template.
func (i *Injector) keeps(o *object) keeping {
	_, injected := o.template.annotations[InjectedAnnotation]
	switch {
	case i.isCurrent(o):
		return changes
	case !i.rendered.annotate, injected && o.kind == Pod:
		return additions
	}
	return nothing
}

// isCurrent tells whether the object was injected by this configuration.
func (i *Injector) isCurrent(o *object) bool {
	return o.template.annotations[InjectedAnnotation] == i.rendered.digest
}

// completion puts right what the agent needs to work on one of its stored containers, field by field. Other webhooks
// rightly change such a container: they name a mirror of the image, add mounts, variables and limits, drop capabilities.
type completion struct {
	p    *patch
	at   string // JSON pointer to the container
	have corev1.Container
	want *corev1.Container
	keep keeping
}

// maxCorrections is how many operations complete a container at most: one that needs more is replaced. A Deployment of a
// megabyte must not become a patch of ten thousand operations, each of which the API server applies to all of it.
const maxCorrections = 16

// complete the container at l's index; false where it must be replaced.
func (p *patch) complete(o *object, l *list, index int, want *corev1.Container, keep keeping, f fit) bool {
	var corrections patch
	c := completion{p: &corrections, at: l.entry(index), want: want, keep: keep}
	if json.Unmarshal(l.items[index].raw, &c.have) != nil || !c.starts() {
		return false
	}
	if keep == additions {
		c.configured(o.kind)
	} else {
		c.image()
	}
	c.command()
	c.env()
	c.mounts(o)
	c.ids(o)
	c.withinPod(f.pod)
	if len(corrections.Operations) > maxCorrections {
		return false
	}
	p.Operations, p.Changes = append(p.Operations, corrections.Operations...), append(p.Changes, corrections.Changes...)
	return true
}

func (c *completion) set(field string, value any) {
	c.p.add("add", c.at+"/"+field, value, "put "+field+" of container "+c.want.Name+" right")
}

func (c *completion) drop(field string) {
	c.p.add("remove", c.at+"/"+field, nil, "remove "+field+" of container "+c.want.Name)
}

// configured puts right what the configuration says and the agent could work without. A Pod's resources are a
// VerticalPodAutoscaler's to change.
func (c *completion) configured(kind Kind) {
	if !isMirrorOf(c.have.Image, c.want.Image) {
		c.set("image", c.want.Image)
	}
	if c.have.ImagePullPolicy != c.want.ImagePullPolicy && c.have.ImagePullPolicy != corev1.PullAlways {
		c.set("imagePullPolicy", c.want.ImagePullPolicy)
	}
	if kind != Pod {
		c.resources()
	}
	switch have := c.have.SecurityContext; {
	case c.want.SecurityContext == nil:
	case have != nil && have.Privileged != nil && *have.Privileged: // no API server takes it beside what is rendered
		c.set("securityContext", c.want.SecurityContext)
	default:
		c.merge("securityContext", tree(have), tree(c.want.SecurityContext))
	}
}

// resources are those of the configuration and others' besides, where a request may not exceed its limit.
func (c *completion) resources() {
	merged := corev1.ResourceRequirements{Limits: maps.Clone(c.have.Resources.Limits), Requests: maps.Clone(c.have.Resources.Requests)}
	for _, list := range []struct {
		of   *corev1.ResourceList
		with corev1.ResourceList
	}{{&merged.Limits, c.want.Resources.Limits}, {&merged.Requests, c.want.Resources.Requests}} {
		if *list.of == nil {
			*list.of = corev1.ResourceList{}
		}
		maps.Copy(*list.of, list.with)
	}
	for name, request := range merged.Requests {
		if limit, limited := merged.Limits[name]; limited && request.Cmp(limit) > 0 {
			c.set("resources", c.want.Resources)
			return
		}
	}
	c.merge("resources", tree(c.have.Resources), tree(c.want.Resources))
}

// merge puts members of a field right and leaves what it has besides.
func (c *completion) merge(field string, have, want any) {
	wanted, ok := want.(map[string]any)
	members, _ := have.(map[string]any)
	if !ok || (len(members) == 0 && len(wanted) > 0) {
		if !reflect.DeepEqual(have, want) {
			c.set(field, want)
		}
		return
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		c.merge(field+"/"+escape(key), members[key], wanted[key])
	}
}

// image is whatever others made of it, but for another publisher's agent: a server-side apply of Gloo Mesh's guide, whose
// containers have the names of ours, merges its image into them.
func (c *completion) image() {
	if name(c.have.Image) == name(c.want.Image) && !isMirrorOf(c.have.Image, c.want.Image) && tag(c.have.Image) != tag(c.want.Image) {
		c.set("image", c.want.Image)
	}
}

// command is the image's own, with the wanted subcommand.
func (c *completion) command() {
	if len(c.have.Command) > 0 {
		c.drop("command")
	}
	if !slices.Equal(c.have.Args, c.want.Args) {
		c.set("args", c.want.Args)
	}
}

// env puts the agent's own variables right, each of them once, and takes out those that are not rendered; of the
// configuration's others it adds those that are missing. envFrom could set any of them.
func (c *completion) env() {
	if len(c.have.EnvFrom) > 0 {
		c.drop("envFrom")
	}
	found := map[string]int{} // the last one of a name counts
	var surplus []int
	for i, have := range c.have.Env {
		if before, twice := found[have.Name]; twice && isOwnVariable(have.Name) {
			surplus = append(surplus, before)
		}
		found[have.Name] = i
	}
	exists := len(c.have.Env) > 0
	for _, want := range c.want.Env {
		at, there := found[want.Name]
		delete(found, want.Name)
		change := "set " + want.Name + " in container " + c.want.Name
		switch {
		case !there && !exists:
			c.p.add("add", c.at+"/env", []corev1.EnvVar{want}, change)
			exists = true
		case !there:
			c.p.add("add", c.at+"/env/-", want, change)
		case (isOwnVariable(want.Name) || c.keep == additions) && !sameVariable(c.have.Env[at], want):
			c.p.add("replace", entry(c.at+"/env", at), want, change)
		}
	}
	for name, at := range found {
		if isOwnVariable(name) {
			surplus = append(surplus, at)
		}
	}
	slices.Sort(surplus)
	for _, at := range slices.Backward(surplus) {
		c.p.add("remove", entry(c.at+"/env", at), nil, "unset "+c.have.Env[at].Name+" in container "+c.want.Name)
	}
}

func sameVariable(have, want corev1.EnvVar) bool {
	if have.ValueFrom != nil && have.ValueFrom.FieldRef != nil && have.ValueFrom.FieldRef.APIVersion == "" {
		have = *have.DeepCopy()
		have.ValueFrom.FieldRef.APIVersion = "v1" // an API server's default
	}
	return equality.Semantic.DeepEqual(have, want)
}

// mounts has each of the wanted mounts at its path, nothing else at, above or below CACertsPath and VaultTokenPath, and no
// mount of a volume that the pod has not: one of those that istiod had, and its owner has taken out since.
func (c *completion) mounts(o *object) {
	if len(c.have.VolumeDevices) > 0 {
		c.drop("volumeDevices")
	}
	var surplus []int
	missing := slices.Clone(c.want.VolumeMounts)
	for i, have := range c.have.VolumeMounts {
		at := slices.IndexFunc(missing, func(want corev1.VolumeMount) bool { return isMounted(o, have, want) })
		switch {
		case at >= 0:
			missing = slices.Delete(missing, at, at+1)
		case relate([]byte(have.MountPath)) != elsewhere, meets(have.MountPath, VaultTokenPath), have.Name == VaultTokenVolume,
			o.volumes.index(have.Name) < 0 && !strings.HasPrefix(have.Name, tokenVolumePrefix),
			slices.ContainsFunc(c.want.VolumeMounts, func(want corev1.VolumeMount) bool { return clean(have.MountPath) == clean(want.MountPath) }):
			surplus = append(surplus, i)
		}
	}
	for _, i := range slices.Backward(surplus) {
		c.p.add("remove", entry(c.at+"/volumeMounts", i), nil, "unmount "+c.have.VolumeMounts[i].MountPath+" from container "+c.want.Name)
	}
	for i, want := range missing {
		change := "mount " + want.MountPath + " in container " + c.want.Name
		if i == 0 && len(c.have.VolumeMounts) == 0 {
			c.p.add("add", c.at+"/volumeMounts", []corev1.VolumeMount{want}, change)
			continue
		}
		c.p.add("add", c.at+"/volumeMounts/-", want, change)
	}
}

// tokenVolumePrefix begins the name of the volume that the API server gives every Pod with a token of its service account
// (ServiceAccountVolumeName, plugin/pkg/admission/serviceaccount/admission.go, Kubernetes 1.37).
const tokenVolumePrefix = "kube-api-access-"

// isMounted tells whether a container has a wanted mount. At TokenPath any token will do that the Pod has: the API
// server's admission plugin gives each container one.
func isMounted(o *object, have, want corev1.VolumeMount) bool {
	if clean(have.MountPath) != clean(want.MountPath) {
		return false
	}
	if isTokenPath([]byte(want.MountPath)) {
		return o.volumes.index(have.Name) >= 0
	}
	return have.Name == want.Name && have.SubPath+have.SubPathExpr == "" && (!have.ReadOnly || want.ReadOnly) &&
		(want.MountPath != CACertsPath || have.MountPath == CACertsPath)
}

// starts puts right what holds istiod back until the files are in place: the init container by its end, the native sidecar
// by its probe. It reports false for a container of the other form, which has fields that go with that.
func (c *completion) starts() bool {
	if c.want.RestartPolicy == nil {
		return c.have.RestartPolicy == nil && c.have.StartupProbe == nil
	}
	if c.have.RestartPolicy == nil || *c.have.RestartPolicy != *c.want.RestartPolicy {
		return false
	}
	if !isProbe(c.have.StartupProbe, c.want.StartupProbe) {
		c.set("startupProbe", c.want.StartupProbe)
	}
	return true
}

// isProbe tells whether a probe asks what the wanted one asks, and no less often.
func isProbe(have, want *corev1.Probe) bool {
	if have == nil || have.HTTPGet == nil {
		return false
	}
	handler := have.ProbeHandler.DeepCopy()
	if handler.HTTPGet.Scheme == "" {
		handler.HTTPGet.Scheme = corev1.URISchemeHTTP // an API server's default
	}
	return equality.Semantic.DeepEqual(handler, &want.ProbeHandler) && have.FailureThreshold >= want.FailureThreshold
}

// ids are istiod's, where its container sets any, and not any more where it does not: else one of both could not read the
// key. Others may have set them where the injection has not.
func (c *completion) ids(o *object) {
	want, have, was := &corev1.SecurityContext{}, c.have.SecurityContext, o.note()
	if c.want.SecurityContext != nil {
		want = c.want.SecurityContext
	}
	if have == nil {
		if want.RunAsUser != nil || want.RunAsGroup != nil {
			c.set("securityContext", want)
		}
		return
	}
	for _, id := range []struct {
		field           string
		want, have, was *int64
	}{
		{"runAsUser", want.RunAsUser, have.RunAsUser, was.User},
		{"runAsGroup", want.RunAsGroup, have.RunAsGroup, was.Group},
	} {
		switch {
		case id.want != nil && (id.have == nil || *id.have != *id.want):
			c.set("securityContext/"+id.field, *id.want)
		case id.want == nil && id.have != nil && id.was != nil && *id.have == *id.was:
			c.drop("securityContext/" + id.field)
		}
	}
}

// withinPod fits the container's resources into the pod's own, which somebody may have set since.
func (c *completion) withinPod(pod *corev1.ResourceRequirements) {
	if pod == nil {
		return
	}
	fitted := c.have.Resources.DeepCopy()
	withinPod(fitted, pod)
	if !equality.Semantic.DeepEqual(fitted, &c.have.Resources) {
		c.set("resources", fitted)
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
