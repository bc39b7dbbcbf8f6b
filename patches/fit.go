// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// fit is what the agent's containers take from one istiod.
type fit struct {
	volume      string         // that istiod mounts at CACertsPath
	user, group *int64         // that istiod's container sets, so that both may read the key
	multiRoot   bool           // whether istiod takes other roots while it runs
	workloadTTL *corev1.EnvVar // how long the certificates live that istiod signs; nil for Istio's default
	token       *corev1.VolumeMount
	pod         *corev1.ResourceRequirements // the pod's own; nil for none
}

// fitOf reads it from the object.
func (i *Injector) fitOf(o *object, volume string) fit {
	f := fit{volume: volume, multiRoot: i.takesOtherRoots(o)}
	if i.rendered.takesIDs {
		f.user, f.group = o.istiod.user, o.istiod.group
	}
	f.workloadTTL = decoded[corev1.EnvVar](o.istiod.workloadTTL)
	f.token = decoded[corev1.VolumeMount](o.istiod.token)
	f.pod = decoded[corev1.ResourceRequirements](o.resources)
	return f
}

func decoded[T any](raw []byte) *T {
	value := new(T)
	if raw == nil || string(raw) == "null" || json.Unmarshal(raw, value) != nil {
		return nil
	}
	return value
}

// fitted is the container on such an istiod, itself where nothing is to be changed.
func (r *rendering) fitted(c *corev1.Container, f fit) *corev1.Container {
	if f == (fit{volume: CACertsVolume, multiRoot: r.multiRoot}) {
		return c
	}
	c = c.DeepCopy()
	c.VolumeMounts[0].Name = f.volume
	withMultiRoot(c, f.multiRoot)
	if f.workloadTTL != nil {
		insertVariable(c, *f.workloadTTL)
	}
	if f.user != nil && c.SecurityContext.RunAsUser == nil {
		c.SecurityContext.RunAsUser = f.user
	}
	if f.group != nil && c.SecurityContext.RunAsGroup == nil {
		c.SecurityContext.RunAsGroup = f.group
	}
	if f.token != nil && !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return clean(m.MountPath) == clean(f.token.MountPath) }) {
		c.VolumeMounts = append(c.VolumeMounts, *f.token)
	}
	withinPod(&c.Resources, f.pod)
	return c
}

// withinPod fits a container's resources into those of its pod: requests of zero, which add nothing to a sum that may not
// exceed the pod's, and no limit above the pod's (ValidatePodResources, pkg/apis/core/validation, Kubernetes 1.37). A
// request that is left out would be set to the limit.
func withinPod(own, pod *corev1.ResourceRequirements) {
	if pod == nil {
		return
	}
	for _, names := range []corev1.ResourceList{pod.Requests, pod.Limits} {
		for name := range names {
			limit, limited := own.Limits[name]
			if most, bounded := pod.Limits[name]; limited && bounded && limit.Cmp(most) > 0 {
				delete(own.Limits, name)
				limited = false
			}
			if _, requested := own.Requests[name]; requested || limited {
				if own.Requests == nil {
					own.Requests = corev1.ResourceList{}
				}
				own.Requests[name] = resource.Quantity{Format: resource.DecimalSI}
			}
		}
	}
}
