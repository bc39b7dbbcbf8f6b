// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// settings are what the agent's containers copy from one istiod.
type settings struct {
	volume      string         // that istiod mounts at CACertsPath
	user, group *int64         // that istiod's container sets, so that both may read the key
	multiRoot   bool           // whether istiod takes other roots while it runs
	workloadTTL *corev1.EnvVar // how long the certificates live that istiod signs; nil for Istio's default
	token       *corev1.VolumeMount
	pod         *corev1.ResourceRequirements // the pod's own; nil for none
}

func (i *Injector) settingsOf(o *object, volume string) settings {
	s := settings{volume: volume, multiRoot: i.multiRootEnabled(o)}
	if i.rendered.copiesIDs {
		s.user, s.group = o.istiod.user, o.istiod.group
	}
	s.workloadTTL = decoded[corev1.EnvVar](o.istiod.workloadTTL)
	s.token = decoded[corev1.VolumeMount](o.istiod.token)
	s.pod = decoded[corev1.ResourceRequirements](o.resources)
	return s
}

func decoded[T any](raw []byte) *T {
	value := new(T)
	if raw == nil || string(raw) == "null" || json.Unmarshal(raw, value) != nil {
		return nil
	}
	return value
}

// adapted returns the container for such an istiod, and c itself if nothing differs.
func (r *rendering) adapted(c *corev1.Container, s settings) *corev1.Container {
	if s == (settings{volume: caCertsVolume, multiRoot: r.multiRoot}) {
		return c
	}
	c = c.DeepCopy()
	c.VolumeMounts[0].Name = s.volume
	setMultiRoot(c, s.multiRoot)
	if s.workloadTTL != nil {
		insertVariable(c, *s.workloadTTL)
	}
	if s.user != nil && c.SecurityContext.RunAsUser == nil {
		c.SecurityContext.RunAsUser = s.user
	}
	if s.group != nil && c.SecurityContext.RunAsGroup == nil {
		c.SecurityContext.RunAsGroup = s.group
	}
	if s.token != nil && !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return clean(m.MountPath) == clean(s.token.MountPath) }) {
		c.VolumeMounts = append(c.VolumeMounts, *s.token)
	}
	limitToPod(&c.Resources, s.pod)
	return c
}

// limitToPod fits a container's resources into its pod's: requests of zero, since the sum of requests may not exceed the
// pod's, and no limit above the pod's (ValidatePodResources, pkg/apis/core/validation, Kubernetes 1.37). An absent request
// would default to the limit.
func limitToPod(own, pod *corev1.ResourceRequirements) {
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
