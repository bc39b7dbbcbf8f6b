// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"encoding/json"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
)

const original = "istiod-agent.io/original"

// sources of volume cacerts other than that of Istio's chart.
var sources = map[string]string{
	"csi":         "csi: {driver: secrets-store.csi.k8s.io, readOnly: true, volumeAttributes: {secretProviderClass: mesh-ca}}",
	"hostPath":    "hostPath: {path: /etc/mesh-ca}",
	"configMap":   "configMap: {name: mesh-ca}",
	"secret":      "secret: {secretName: mesh-ca}",
	"projected":   "projected: {sources: [{secret: {name: mesh-ca}}]}",
	"the chart's": "secret: {secretName: cacerts, optional: true}",
}

// withSource returns an istiod whose volume cacerts has another source.
func withSource(t *testing.T, istiod *unstructured.Unstructured, source string) *unstructured.Unstructured {
	t.Helper()
	var volume map[string]any
	if err := yaml.Unmarshal([]byte(source), &volume); err != nil {
		t.Fatal(err)
	}
	volume["name"] = "cacerts"
	changed := istiod.DeepCopy()
	edit(t, changed, func(pod map[string]any) {
		volumes := pod["volumes"].([]any)
		at := slices.IndexFunc(volumes, func(v any) bool { return v.(map[string]any)["name"] == "cacerts" })
		volumes[at] = volume
	})
	return changed
}

// edit changes the pod spec.
func edit(t *testing.T, istiod *unstructured.Unstructured, change func(pod map[string]any)) {
	t.Helper()
	pod, _, err := unstructured.NestedMap(istiod.Object, "spec", "template", "spec")
	if err != nil {
		t.Fatal(err)
	}
	change(pod)
	if err := unstructured.SetNestedMap(istiod.Object, pod, "spec", "template", "spec"); err != nil {
		t.Fatal(err)
	}
}

func own(pod map[string]any) map[string]any { return pod["containers"].([]any)[0].(map[string]any) }

// Repeated applies of any source restart nothing, and an opt-out restores the last source.
func TestReappliedSources(t *testing.T) {
	t.Parallel()
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			istiod := withSource(t, cluster.Istiod(t, shared.Namespace(t, true)), source)
			without := shared.Without(t, istiod)
			stored := shared.MustApply(t, istiod)
			noted := stored.Annotations[original]
			again := shared.MustApply(t, istiod)
			wantGeneration(t, again, 1)
			if again.Annotations[original] != noted {
				t.Errorf("the note was %s and is %s", noted, again.Annotations[original])
			}

			other := withSource(t, istiod, sources["csi"])
			if name == "csi" {
				other = withSource(t, istiod, sources["hostPath"])
			}
			other.SetManagedFields(nil)
			if err := shared.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(other), client.FieldOwner("another"), client.ForceOwnership); err != nil {
				t.Fatal(err)
			}
			wantTemplate(t, shared.Stored(t, istiod.GetNamespace(), istiod.GetName()), again)
			if _, err := shared.ServerSideApply(t.Context(), istiod, client.ForceOwnership); err != nil {
				t.Fatal(err)
			}
			stored = shared.Stored(t, istiod.GetNamespace(), istiod.GetName())
			wantTemplate(t, stored, again)

			patch(t, shared, stored, types.MergePatchType, `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}}}`)
			if err := injected.Absent(without, &stored.Spec.Template); err != nil {
				t.Error("after opting out:", err)
			}
			if stored.Annotations[original] != "" {
				t.Errorf("the note stays: %s", stored.Annotations[original])
			}
		})
	}
}

// The note on the pod template of an istiod of the previous version moves to the Deployment without a rollout.
func TestNoteMigration(t *testing.T) {
	t.Parallel()
	namespace := shared.Namespace(t, true)
	istiod := withSource(t, cluster.Istiod(t, namespace), sources["csi"])
	stored := shared.MustApply(t, istiod)
	note, err := json.Marshal(stored.Annotations[original])
	if err != nil {
		t.Fatal(err)
	}
	shared.Label(t, namespace, false)
	patch(t, shared, stored, types.MergePatchType, `{"metadata":{"annotations":{"`+original+`":null}},"spec":{"template":{"metadata":{"annotations":{"`+original+`":`+string(note)+`}}}}}`)
	before := stored.DeepCopy()
	shared.Label(t, namespace, true)
	patch(t, shared, stored, types.MergePatchType, `{"metadata":{"labels":{"any":"change"}}}`)
	wantTemplate(t, stored, before)
	if stored.Annotations[original] == "" {
		t.Error("the note has not moved")
	}
	wantGeneration(t, shared.MustApply(t, istiod), stored.Generation)
}

// wantTemplate expects the same pod template: the Deployment controller restarts Pods for no other change. The generation
// counts changes of the Deployment's annotations too (PrepareForUpdate, pkg/registry/apps/deployment/strategy.go).
func wantTemplate(t *testing.T, stored, before *appsv1.Deployment) {
	t.Helper()
	if !apiequality.Semantic.DeepEqual(stored.Spec.Template, before.Spec.Template) {
		t.Errorf("the pod template was %+v and is %+v", before.Spec.Template, stored.Spec.Template)
	}
}

// After one edit that removes both containers, an opt-out restores istiod's own volume.
func TestContainersRemoved(t *testing.T) {
	t.Parallel()
	for _, source := range []string{sources["the chart's"], sources["csi"]} {
		istiod := withSource(t, cluster.Istiod(t, shared.Namespace(t, true)), source)
		stored := shared.MustApply(t, istiod)
		patch(t, shared, stored, types.JSONPatchType, `[{"op":"remove","path":"/spec/template/spec/initContainers/0"},{"op":"remove","path":"/spec/template/spec/containers/1"}]`)
		wantGeneration(t, stored, 1)
		patch(t, shared, stored, types.MergePatchType, `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}}}`)
		if err := injected.Absent(shared.Without(t, istiod), &stored.Spec.Template); err != nil {
			t.Error(err)
		}
	}
}

// Valid set-ups that the webhook once refused or broke.
func TestSetups(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(pod map[string]any)
		want   func(pod *corev1.PodSpec) bool
	}{
		"the token of the API server mounted by hand": {
			func(pod map[string]any) {
				pod["automountServiceAccountToken"] = false
				own(pod)["volumeMounts"] = append(own(pod)["volumeMounts"].([]any), map[string]any{"name": "api-token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true})
				pod["volumes"] = append(pod["volumes"].([]any), map[string]any{"name": "api-token", "projected": map[string]any{"sources": []any{map[string]any{"serviceAccountToken": map[string]any{"path": "token"}}}}})
			},
			func(pod *corev1.PodSpec) bool {
				return mounts(pod, "istiod-agent", "api-token") && mounts(pod, "istiod-agent-init", "api-token")
			},
		},
		"a volume called cacerts for another purpose": {
			func(pod map[string]any) {
				for _, m := range own(pod)["volumeMounts"].([]any) {
					if m := m.(map[string]any); m["name"] == "cacerts" {
						m["mountPath"] = "/var/run/trust"
					}
				}
			},
			func(pod *corev1.PodSpec) bool {
				return mounts(pod, "discovery", "cacerts") && mounts(pod, "discovery", "istiod-agent-cacerts") && mounts(pod, "istiod-agent", "istiod-agent-cacerts") &&
					slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "cacerts" && v.Secret != nil })
			},
		},
		"resources of the pod, all of them istiod's": {
			func(pod map[string]any) {
				own(pod)["resources"] = map[string]any{"requests": map[string]any{"cpu": "500m", "memory": "2Gi"}}
				pod["resources"] = map[string]any{"requests": map[string]any{"cpu": "500m", "memory": "2Gi"}, "limits": map[string]any{"cpu": "2", "memory": "2Gi"}}
			},
			func(pod *corev1.PodSpec) bool { return pod.Containers[1].Resources.Requests.Memory().IsZero() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			istiod := cluster.Istiod(t, shared.Namespace(t, true))
			edit(t, istiod, test.change)
			without := shared.Without(t, istiod)
			stored := shared.MustApply(t, istiod)
			if !test.want(&stored.Spec.Template.Spec) {
				t.Errorf("got %+v", stored.Spec.Template.Spec)
			}
			wantGeneration(t, shared.MustApply(t, istiod), 1)
			patch(t, shared, stored, types.MergePatchType, `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}}}`)
			if err := injected.Absent(without, &stored.Spec.Template); err != nil {
				t.Error("after opting out:", err)
			}
		})
	}
}

// The owner moves istiod's mount to another volume.
func TestMountChange(t *testing.T) {
	t.Parallel()
	for name, keeps := range map[string]bool{"the manifest keeps the first volume": true, "the manifest has it no more": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			istiod := cluster.Istiod(t, shared.Namespace(t, true))
			shared.MustApply(t, istiod)
			edit(t, istiod, func(pod map[string]any) {
				for _, m := range own(pod)["volumeMounts"].([]any) {
					if m := m.(map[string]any); m["name"] == "cacerts" {
						m["name"] = "my-ca"
					}
				}
				volumes := pod["volumes"].([]any)
				if !keeps {
					volumes = slices.DeleteFunc(volumes, func(v any) bool { return v.(map[string]any)["name"] == "cacerts" })
				}
				pod["volumes"] = append(volumes, map[string]any{"name": "my-ca", "secret": map[string]any{"secretName": "my-ca"}})
			})
			stored := shared.MustApply(t, istiod)
			if !mounts(&stored.Spec.Template.Spec, "istiod-agent", "my-ca") {
				t.Errorf("got %+v", stored.Spec.Template.Spec.Containers)
			}
			at := slices.IndexFunc(stored.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "cacerts" })
			if (at >= 0) != keeps || keeps && stored.Spec.Template.Spec.Volumes[at].EmptyDir != nil {
				t.Errorf("got volumes %+v", stored.Spec.Template.Spec.Volumes)
			}
			wantGeneration(t, shared.MustApply(t, istiod), stored.Generation)
		})
	}
}

func mounts(pod *corev1.PodSpec, container, volume string) bool {
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		if c.Name == container {
			return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume })
		}
	}
	return false
}

// Warnings name what is replaced, and the missing token of an istiod without one.
func TestSetupWarnings(t *testing.T) {
	t.Parallel()
	istiod := withSource(t, cluster.Istiod(t, shared.Namespace(t, true)), sources["csi"])
	edit(t, istiod, func(pod map[string]any) { pod["automountServiceAccountToken"] = false })
	var deployment appsv1.Deployment
	convert(t, istiod, &deployment)
	warnings, listening := warned(t)
	if err := listening.Create(t.Context(), &deployment); err != nil {
		t.Fatal(err)
	}
	wantWords(t, "the warnings", []string{"volume cacerts (csi)", "automountServiceAccountToken is false"}, warnings.said())
}
