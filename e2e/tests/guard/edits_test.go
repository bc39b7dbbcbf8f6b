// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Edits of an istiod.
var (
	longAgo       = metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	fromConfigMap = &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "a"}, Key: "b",
	}}
)

func both(first, second func(*istiod)) func(*istiod) {
	return func(i *istiod) { first(i); second(i) }
}

func noRootCADir(i *istiod) {
	i.own().Env = slices.DeleteFunc(i.own().Env, func(e corev1.EnvVar) bool { return e.Name == "ROOT_CA_DIR" })
}

func rootCADir(variable corev1.EnvVar) func(*istiod) {
	variable.Name = "ROOT_CA_DIR"
	return func(i *istiod) {
		noRootCADir(i)
		i.own().Env = append(i.own().Env, variable)
	}
}

func envFrom(i *istiod) {
	i.own().EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "a"}}}}
}

func workingDir(i *istiod) { i.own().WorkingDir = "/x" }

func mount(path string) func(*istiod) {
	return func(i *istiod) {
		i.own().VolumeMounts = append(i.own().VolumeMounts, corev1.VolumeMount{Name: "local-certs", MountPath: path})
	}
}

func agentMount(path string) func(*istiod) {
	return func(i *istiod) {
		i.init().VolumeMounts = append(i.init().VolumeMounts, corev1.VolumeMount{Name: "local-certs", MountPath: path})
	}
}

func device(i *istiod) {
	i.pod().Volumes = append(i.pod().Volumes, corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "disk"},
	}})
	i.own().VolumeDevices = []corev1.VolumeDevice{{Name: "disk", DevicePath: "/etc/cacerts/ca-key.pem"}}
}

// add adds a container after istiod's.
func (i istiod) add(c corev1.Container) { i.pod().Containers = append(i.pod().Containers, c) }

// init returns the first init container.
func (i istiod) init() *corev1.Container { return &i.pod().InitContainers[0] }

// ownMount returns istiod's mount of volume cacerts, nil if there is none.
func (i istiod) ownMount() *corev1.VolumeMount {
	mounts := i.own().VolumeMounts
	at := slices.IndexFunc(mounts, func(m corev1.VolumeMount) bool { return m.Name == "cacerts" })
	if at < 0 {
		return nil
	}
	return &mounts[at]
}
