// SPDX-License-Identifier: Apache-2.0

package configurations

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// others are changes that other webhooks make to every container of a Pod.
var others = map[string]struct {
	do   func(*corev1.Container)
	done func(*corev1.Container) bool
}{
	"a mirror": {
		func(c *corev1.Container) {
			c.Image = "mirror.internal/" + strings.TrimPrefix(c.Image, "mirror.internal/")
		},
		func(c *corev1.Container) bool { return strings.HasPrefix(c.Image, "mirror.internal/") },
	},
	"a pull policy": {
		func(c *corev1.Container) { c.ImagePullPolicy = corev1.PullAlways },
		func(c *corev1.Container) bool { return c.ImagePullPolicy == corev1.PullAlways },
	},
	"capabilities": {
		func(c *corev1.Container) {
			if c.SecurityContext == nil {
				c.SecurityContext = &corev1.SecurityContext{}
			}
			c.SecurityContext.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL", "NET_RAW"}}
		},
		func(c *corev1.Container) bool {
			return c.SecurityContext != nil && c.SecurityContext.Capabilities != nil && slices.Contains(c.SecurityContext.Capabilities.Drop, "NET_RAW")
		},
	},
	"limits": {
		func(c *corev1.Container) {
			if c.Resources.Limits == nil {
				c.Resources.Limits = corev1.ResourceList{}
			}
			c.Resources.Limits[corev1.ResourceCPU] = resource.MustParse("3")
		},
		func(c *corev1.Container) bool { return c.Resources.Limits.Cpu().String() == "3" },
	},
	"a variable": {
		func(c *corev1.Container) {
			if !hasVariable(c) {
				c.Env = slices.Insert(c.Env, 0, corev1.EnvVar{Name: "CLUSTER_ZONE", Value: "a"})
			}
		},
		hasVariable,
	},
	"a token mount": {
		func(c *corev1.Container) {
			if !hasMount(c) {
				c.VolumeMounts = slices.Insert(c.VolumeMounts, 0, corev1.VolumeMount{Name: "local-certs", MountPath: "/var/run/secrets/others/serviceaccount", ReadOnly: true})
			}
		},
		hasMount,
	},
}

func hasVariable(c *corev1.Container) bool {
	return slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == "CLUSTER_ZONE" })
}

func hasMount(c *corev1.Container) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.MountPath == "/var/run/secrets/others/serviceaccount"
	})
}

// Another webhook's changes of the agent's containers stay, in either order of the webhooks and with reinvocation. istiod can
// be created and changed, carries the agent, and is not rolled out again.
func TestOtherWebhooks(t *testing.T) {
	for _, target := range []string{"deployments", "pods"} {
		t.Run(target, func(t *testing.T) {
			installed(t, webhookserver.Options{
				Values:        helm.Values{"injection": helm.Values{"target": target}},
				Configuration: map[string]any{"agent": map[string]any{"image": agentImage}},
			})
			for name, other := range others {
				for order, configuration := range map[string]string{"before": "a-others", "after": "z-others"} {
					for _, again := range []admissionregistrationv1.ReinvocationPolicyType{admissionregistrationv1.IfNeededReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy} {
						t.Run(fmt.Sprintf("%s/%s/%s", name, order, again), func(t *testing.T) {
							namespace := shared.Namespace(t, true)
							serveOther(t, configuration, namespace, again, other.do)
							seen := order == "after" || again == admissionregistrationv1.IfNeededReinvocationPolicy
							if target == "pods" {
								account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: namespace}}
								if err := shared.Create(t.Context(), account); err != nil {
									t.Fatal(err)
								}
								without := shared.Without(t, cluster.Istiod(t, namespace))
								pod := &corev1.Pod{
									ObjectMeta: metav1.ObjectMeta{Name: "istiod-x", Namespace: namespace, Labels: without.Labels, Annotations: without.Annotations},
									Spec:       without.Spec,
								}
								if err := shared.Create(t.Context(), pod); err != nil {
									t.Fatal(err)
								}
								wantBoth(t, &pod.Spec, other.done, seen, true)
								return
							}
							istiod := cluster.Istiod(t, namespace)
							stored := shared.MustApply(t, istiod)
							wantBoth(t, &stored.Spec.Template.Spec, other.done, seen, false)
							second := shared.MustApply(t, istiod) // one that comes first sees the agent now
							wantBoth(t, &second.Spec.Template.Spec, other.done, true, false)
							if third := shared.MustApply(t, istiod); third.Generation != second.Generation {
								t.Errorf("a re-apply went on from generation %d to %d", second.Generation, third.Generation)
							}
							if seen && second.Generation != 1 {
								t.Errorf("a re-apply went on to generation %d", second.Generation)
							}
						})
					}
				}
			}
		})
	}
}

// wantBoth expects the agent and the other webhook's change.
func wantBoth(t *testing.T, spec *corev1.PodSpec, done func(*corev1.Container) bool, seen, token bool) {
	t.Helper()
	found := 0
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		args, ours := map[string]string{"istiod-agent-init": "init-container", "istiod-agent": "sidecar"}[c.Name]
		if !ours {
			continue
		}
		found++
		if !slices.Equal(c.Args, []string{args}) || len(c.Command) > 0 {
			t.Errorf("%s runs %v %v", c.Name, c.Command, c.Args)
		}
		mounted := func(path, volume string) bool {
			return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
				return m.MountPath == path && strings.HasPrefix(m.Name, volume)
			})
		}
		if !mounted("/etc/cacerts", "cacerts") || !mounted("/var/run/secrets/istiod-agent.io/vault", "istiod-agent-vault-token") {
			t.Errorf("%s mounts %v", c.Name, c.VolumeMounts)
		}
		if token && !mounted("/var/run/secrets/kubernetes.io/serviceaccount", "kube-api-access-") {
			t.Errorf("%s has no token: it mounts %v", c.Name, c.VolumeMounts)
		}
		if done(&c) != seen {
			t.Errorf("%s has what the other webhook did: %t, want %t", c.Name, done(&c), seen)
		}
	}
	if found != 2 {
		t.Errorf("%d containers of the agent", found)
	}
}

// serveOther runs another mutating webhook for the Deployments and Pods of a namespace.
func serveOther(t *testing.T, name, namespace string, again admissionregistrationv1.ReinvocationPolicyType, do func(*corev1.Container)) {
	t.Helper()
	var calls atomic.Int64
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		patch, err := mutation(review.Request, do)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		kind := admissionv1.PatchTypeJSONPatch
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true, Patch: patch, PatchType: &kind}
		review.Request = nil
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	none, fail, url := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Fail, server.URL
	rule := func(group, plural string) admissionregistrationv1.RuleWithOperations {
		return admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{group}, APIVersions: []string{"v1"}, Resources: []string{plural}},
		}
	}
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "others.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail, ReinvocationPolicy: &again,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
			},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			Rules:             []admissionregistrationv1.RuleWithOperations{rule("apps", "deployments"), rule("", "pods")},
		}},
	}
	if err := shared.Create(t.Context(), configuration); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Delete(context.Background(), configuration); err != nil {
			t.Error(err)
		}
	})
	cluster.Eventually(t, "the API server calls the other webhook", func() error {
		labels := map[string]string{"app": "probe"}
		probe := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-", Namespace: namespace},
			Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{
						Containers: []corev1.Container{{Name: "probe", Image: "probe"}},
						Volumes:    []corev1.Volume{{Name: "local-certs"}},
					},
				},
			},
		}
		if err := shared.Create(t.Context(), probe, client.DryRunAll); err != nil {
			return err
		}
		if calls.Load() == 0 {
			return errors.New("it was not called")
		}
		return nil
	})
}

// mutation returns the JSON patch of a change of each container.
func mutation(request *admissionv1.AdmissionRequest, do func(*corev1.Container)) ([]byte, error) {
	var object appsv1.Deployment
	at, spec := "/spec/template/spec", &object.Spec.Template.Spec
	var pod corev1.Pod
	into := any(&object)
	if request.Kind.Kind == "Pod" {
		at, spec, into = "/spec", &pod.Spec, &pod
	}
	if err := json.Unmarshal(request.Object.Raw, into); err != nil {
		return nil, err
	}
	operations := []map[string]any{}
	for list, containers := range map[string][]corev1.Container{"containers": spec.Containers, "initContainers": spec.InitContainers} {
		for i := range containers {
			do(&containers[i])
			operations = append(operations, map[string]any{"op": "replace", "path": fmt.Sprintf("%s/%s/%d", at, list, i), "value": containers[i]})
		}
	}
	return json.Marshal(operations)
}
