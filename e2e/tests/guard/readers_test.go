// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// Ephemeral containers must not be able to read the key.
func TestEphemeralContainers(t *testing.T) {
	for target, namespaces := range map[v1alpha1.Target]func() (*cluster.Cluster, string){
		v1alpha1.TargetDeployments: func() (*cluster.Cluster, string) { return shared, namespaceOf(t, shared) },
		v1alpha1.TargetPods: func() (*cluster.Cluster, string) {
			return injectingPods, withServiceAccount(t, injectingPods, injectingPods.Namespace(t, true))
		},
	} {
		c, namespace := namespaces()
		for name, test := range map[string]struct {
			ephemeral corev1.EphemeralContainer
			optedOut  bool
			want      string
		}{
			"it mounts the volume": {corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				VolumeMounts: []corev1.VolumeMount{{Name: "cacerts", MountPath: "/x"}},
			}}, false, stranger},
			"it mounts another volume": {corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				VolumeMounts: []corev1.VolumeMount{{Name: "local-certs", MountPath: "/x"}},
			}}, false, passes},
			"its target is istiod":          {corev1.EphemeralContainer{TargetContainerName: "discovery"}, false, ofProcess},
			"its target is the agent":       {corev1.EphemeralContainer{TargetContainerName: "istiod-agent"}, false, ofProcess},
			"it has no target":              {corev1.EphemeralContainer{}, false, passes},
			"it runs istiod":                {corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Args: []string{"discovery"}}}, false, second},
			"its target is, of one without": {corev1.EphemeralContainer{TargetContainerName: "discovery"}, true, passes},
		} {
			t.Run(string(target)+"/"+name, func(t *testing.T) {
				i := newIstiod(t, v1alpha1.TargetPods, cluster.Istiod(t, namespace))
				if test.optedOut {
					i.meta().Annotations = map[string]string{"istiod-agent.io/inject": "false"}
				} else {
					i = i.injected(t, v1alpha1.SidecarContainer)
				}
				pod := i.single
				pod.Namespace = namespace
				if err := c.Create(t.Context(), pod); err != nil {
					t.Fatal(err)
				}
				test.ephemeral.Name, test.ephemeral.Image = "debugger", "busybox"
				pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{test.ephemeral}
				wantRefused(t, c.SubResource("ephemeralcontainers").Update(t.Context(), pod), test.want)
			})
		}
	}
}

// A Pod that is older than the label has no key to protect.
func TestEphemeralContainerWithoutAgent(t *testing.T) {
	namespace := namespaceOf(t, shared)
	shared.Label(t, namespace, false)
	pod := newIstiod(t, v1alpha1.TargetPods, cluster.Istiod(t, namespace)).single
	pod.Namespace = namespace
	cluster.Eventually(t, "the guard sees that the label is gone", func() error { return shared.Create(t.Context(), pod) })
	shared.Label(t, namespace, true)
	cluster.Eventually(t, "the guard sees the label", func() error {
		another := newIstiod(t, v1alpha1.TargetPods, cluster.Istiod(t, namespace)).single
		another.Namespace = namespace
		return unlessRefused(shared.Create(t.Context(), another, client.DryRunAll), otherKind)
	})
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "busybox"}, TargetContainerName: "discovery",
	}}
	wantRefused(t, shared.SubResource("ephemeralcontainers").Update(t.Context(), pod), passes)
}

// unlessRefused returns an error unless err is a refusal with a text.
func unlessRefused(err error, refusal string) error {
	if err == nil {
		return errors.New("it passes")
	}
	if !strings.Contains(err.Error(), refusal) {
		return fmt.Errorf("refused for another reason: %w", err)
	}
	return nil
}
