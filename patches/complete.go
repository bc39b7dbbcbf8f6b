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

	"github.com/istiod-agent/istiod-agent/internal/istio"
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
}

// complete the container at l's index; false where it cannot be read, and must be replaced.
func (p *patch) complete(o *object, l *list, index int, want *corev1.Container, keep keeping) bool {
	c := completion{p: p, at: l.entry(index), want: want}
	if json.Unmarshal(l.items[index].raw, &c.have) != nil {
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
	c.start()
	c.ids()
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
	if kind != Pod {
		c.merge("resources", tree(c.have.Resources), tree(c.want.Resources))
	}
	if c.want.SecurityContext != nil {
		c.merge("securityContext", tree(c.have.SecurityContext), tree(c.want.SecurityContext))
	}
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

// isMirrorOf tells whether an image is the wanted one, or has its path and tag in another registry, or is pinned there by
// its digest.
func isMirrorOf(image, want string) bool {
	image, digest, pinned := strings.Cut(image, "@")
	want, wanted, _ := strings.Cut(want, "@")
	if pinned && digest != "" && tag(image) == "" {
		want = strings.TrimSuffix(want, ":"+tag(want))
	}
	if wanted != "" && wanted != digest {
		return false
	}
	_, path, registry := strings.Cut(want, "/")
	return image == want || registry && path != "" && strings.HasSuffix(image, "/"+path)
}

// name of an image: the last component of its path.
func name(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndex(image, "/")+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}

// tag of an image, "" for none.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return tag
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

// env puts the agent's own variables right, each of them once; of the configuration's it adds those that are missing.
func (c *completion) env() {
	found := map[string]int{} // the last one of a name counts
	var surplus []int
	for i, have := range c.have.Env {
		if before, twice := found[have.Name]; twice && ownVariables[have.Name] {
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
		case ownVariables[want.Name] && !sameVariable(c.have.Env[at], want):
			c.p.add("replace", entry(c.at+"/env", at), want, change)
		}
	}
	for _, follows := range []string{istio.MultiRootVariable, istio.WorkloadTTLVariable} { // istiod has them no more
		if at, there := found[follows]; there {
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

// mounts has each of the wanted mounts at its path, and nothing else at, above or below CACertsPath.
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
		case relate([]byte(have.MountPath)) != elsewhere, slices.ContainsFunc(c.want.VolumeMounts, func(want corev1.VolumeMount) bool {
			return clean(have.MountPath) == clean(want.MountPath)
		}):
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

// start holds istiod back until the files are in place: the init container by its end, the native sidecar by its probe.
func (c *completion) start() {
	always := func(c *corev1.Container) bool {
		return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	switch {
	case always(c.want) && !always(&c.have):
		c.set("restartPolicy", c.want.RestartPolicy)
	case !always(c.want) && c.have.RestartPolicy != nil:
		c.drop("restartPolicy")
	}
	want := c.want.StartupProbe
	if want == nil {
		return
	}
	have := c.have.StartupProbe
	if have == nil || have.HTTPGet == nil || have.HTTPGet.Path != want.HTTPGet.Path || have.HTTPGet.Port != want.HTTPGet.Port || have.HTTPGet.Host != "" ||
		(have.HTTPGet.Scheme != "" && have.HTTPGet.Scheme != want.HTTPGet.Scheme) {
		c.set("startupProbe", want)
	}
}

// ids are istiod's, where its container sets any: else one of both could not read the key.
func (c *completion) ids() {
	if c.want.SecurityContext == nil {
		return
	}
	have := c.have.SecurityContext
	for _, id := range []struct {
		field      string
		want, have *int64
	}{
		{"runAsUser", c.want.SecurityContext.RunAsUser, userOf(have)},
		{"runAsGroup", c.want.SecurityContext.RunAsGroup, groupOf(have)},
	} {
		switch {
		case id.want == nil || (id.have != nil && *id.have == *id.want):
		case have == nil:
			c.set("securityContext", c.want.SecurityContext)
			return
		default:
			c.set("securityContext/"+id.field, *id.want)
		}
	}
}

func userOf(s *corev1.SecurityContext) *int64 {
	if s == nil {
		return nil
	}
	return s.RunAsUser
}

func groupOf(s *corev1.SecurityContext) *int64 {
	if s == nil {
		return nil
	}
	return s.RunAsGroup
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
