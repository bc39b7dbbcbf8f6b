// SPDX-License-Identifier: Apache-2.0

// Package guard tests the chart's ValidatingAdmissionPolicy, alone (with istiods injected by the test) and with the webhook.
package guard

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/v2/loader"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var (
	// shared has no webhook.
	shared *cluster.Cluster
	// injecting has a webhook that injects Deployments, injectingPods one for Pods.
	injecting, injectingPods *cluster.Cluster
)

func TestMain(m *testing.M) {
	pods := helm.Values{"injection": helm.Values{"target": "pods"}}
	cluster.MainOfSeveral(m, cluster.Spec{Into: &shared},
		cluster.Spec{Into: &injecting, Options: &webhookserver.Options{}},
		cluster.Spec{Into: &injectingPods, Options: &webhookserver.Options{Values: pods}})
}

// The guard refuses every istiod without the agent and admits it as the webhook injects it, in any configuration. In other
// namespaces it admits it without the agent.
func TestEveryIstiod(t *testing.T) {
	for _, target := range []v1alpha1.Target{v1alpha1.TargetDeployments, v1alpha1.TargetPods} {
		t.Run(string(target), func(t *testing.T) {
			guarded, free := guardedNamespace(t, target), withServiceAccount(t, shared, shared.Namespace(t, false))
			inputs, err := istio.Inputs(t.Context(), guarded)
			if err != nil {
				t.Fatal(err)
			}
			for name, input := range inputs {
				t.Run(name, func(t *testing.T) {
					istiod := newIstiod(t, target, input)
					want(t, guarded, istiod, "which is not an in-memory emptyDir")
					want(t, free, istiod, "")
					for _, form := range forms {
						want(t, guarded, istiod.injected(t, form), "")
					}
				})
			}
		})
	}
}

func TestMessages(t *testing.T) {
	for _, target := range []v1alpha1.Target{v1alpha1.TargetDeployments, v1alpha1.TargetPods} {
		namespace := guardedNamespace(t, target)
		plain := newIstiod(t, target, cluster.Istiod(t, namespace))
		container, native := plain.injected(t, v1alpha1.SidecarContainer), plain.injected(t, v1alpha1.SidecarNative)

		const (
			notMemory  = "istiod would read its CA from volume cacerts, which is not an in-memory emptyDir"
			noIstiod   = "No container mounts /etc/cacerts and none is called discovery"
			nextAction = `istiod-agent.io/inject: "false"`
		)
		for name, test := range map[string]struct {
			istiod istiod
			edit   func(i *istiod)
			want   string
		}{
			"opted out by annotation": {plain, func(i *istiod) { i.meta().Annotations = map[string]string{"istiod-agent.io/inject": "false"} }, passes},
			"opted out by label":      {plain, func(i *istiod) { i.meta().Labels["istiod-agent.io/inject"] = "false" }, passes},
			"opted in is no opt-out":  {plain, func(i *istiod) { i.meta().Labels["istiod-agent.io/inject"] = "true" }, notMemory},
			"not an istiod": {plain, func(i *istiod) {
				i.unlabel()
				i.own().Args = []string{"proxy"}
			}, passes},
			"CA off":                     {plain, env("ENABLE_CA_SERVER", "False"), passes},
			"CA off, then on":            {plain, env("ENABLE_CA_SERVER", "false", "ENABLE_CA_SERVER", "true"), notMemory},
			"CA neither on nor off":      {plain, env("ENABLE_CA_SERVER", "no"), notMemory},
			"Kubernetes signs":           {plain, env("EXTERNAL_CA", "ISTIOD_RA_KUBERNETES_API", "PILOT_CERT_PROVIDER", "k8s.io/signer"), passes},
			"external CA, but istiod's":  {plain, env("EXTERNAL_CA", "ISTIOD_RA_ISTIO_API"), notMemory},
			"looks elsewhere":            {container, env("ROOT_CA_DIR", "/elsewhere"), elsewhere},
			"looks where it does anyway": {container, env("ROOT_CA_DIR", "./etc/cacerts"), passes},
			"istiod called otherwise":    {container, func(i *istiod) { i.own().Name = "pilot" }, passes},
			"that, un-injected":          {plain, func(i *istiod) { i.own().Name = "pilot" }, notMemory},
			"istiod without mount":       {container, func(i *istiod) { i.own().VolumeMounts = nil }, noMount},
			"nothing like istiod":        {container, func(i *istiod) { i.own().VolumeMounts, i.own().Name = nil, "pilot" }, noIstiod},
			"Secret brought back": {container, func(i *istiod) {
				i.volume().EmptyDir, i.volume().Secret = nil, &corev1.SecretVolumeSource{SecretName: "cacerts"}
			}, notMemory},
			"on disk":                     {container, func(i *istiod) { i.volume().EmptyDir.Medium = "" }, notMemory},
			"no sidecar":                  {container, func(i *istiod) { i.pod().Containers = i.pod().Containers[:1] }, noAgent},
			"no init container":           {container, func(i *istiod) { i.pod().InitContainers = nil }, noAgent},
			"init container cannot write": {container, func(i *istiod) { i.pod().InitContainers[0].VolumeMounts[0].ReadOnly = true }, noAgent},
			"sidecar cannot write":        {container, func(i *istiod) { i.pod().Containers[1].VolumeMounts[0].ReadOnly = true }, noAgent},
			"sidecar writes elsewhere":    {container, func(i *istiod) { i.pod().Containers[1].VolumeMounts[0].MountPath = "/elsewhere" }, noAgent},
			"native, but ends": {native, func(i *istiod) {
				i.pod().InitContainers[0].RestartPolicy, i.pod().InitContainers[0].StartupProbe = nil, nil
			}, noAgent},
			"native cannot write":          {native, func(i *istiod) { i.pod().InitContainers[0].VolumeMounts[0].ReadOnly = true }, noAgent},
			"1,500 environment variables":  {container, func(i *istiod) { env(manyVariables()...)(i) }, passes},
			"that, un-injected and costly": {plain, func(i *istiod) { env(manyVariables()...)(i) }, nextAction},
		} {
			t.Run(string(target)+"/"+name, func(t *testing.T) {
				edited := test.istiod.copied()
				test.edit(&edited)
				want(t, namespace, edited, test.want)
			})
		}
	}
}

// The guard admits updates that a deletion needs, and refuses other changes of an istiod without the agent.
func TestUpdates(t *testing.T) {
	namespace := guardedNamespace(t, v1alpha1.TargetDeployments)
	shared.Label(t, namespace, false)
	stored := newIstiod(t, v1alpha1.TargetDeployments, cluster.Istiod(t, namespace)).deployment
	stored.Namespace = namespace
	stored.Finalizers = []string{"example.com/wait"}
	cluster.Eventually(t, "the guard sees that the label is gone", func() error { return shared.Create(t.Context(), stored) })
	shared.Label(t, namespace, true)

	annotate := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"a":"b"}}}`))
	cluster.Eventually(t, "a change is refused", func() error {
		if err := shared.Patch(t.Context(), stored.DeepCopy(), annotate, client.DryRunAll); err == nil {
			return errors.New("it passes")
		}
		return nil
	})
	if err := shared.Delete(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	release := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	if err := shared.Patch(t.Context(), stored, release); err != nil {
		t.Errorf("the last finalizer cannot go: %v", err)
	}
}

// want creates an istiod (dry run). refused is a part of the refusal, or "" if the guard must admit it.
func want(t *testing.T, namespace string, i istiod, refused string) {
	t.Helper()
	object := i.copied().object()
	object.SetNamespace(namespace)
	switch err := shared.Create(t.Context(), object, client.DryRunAll); {
	case refused == "" && err != nil:
		t.Errorf("refused: %v", err)
	case refused != "" && err == nil:
		t.Errorf("passes, want %q", refused)
	case refused != "" && !strings.Contains(err.Error(), refused):
		t.Errorf("refused, without %q: %v", refused, err)
	}
}

// guardedNamespace installs the chart without its webhook for a test, and returns a labelled namespace in which the guard is
// effective.
func guardedNamespace(t *testing.T, target v1alpha1.Target) string {
	t.Helper()
	root, err := built.Root()
	if err != nil {
		t.Fatal(err)
	}
	chart, err := loader.Load(filepath.Join(root, "charts", "istiod-agent"))
	if err != nil {
		t.Fatal(err)
	}
	release := helm.Release{Name: "guard-" + string(target), Namespace: "default"}
	noWebhook := func(object *unstructured.Unstructured) error {
		if object.GetKind() == "MutatingWebhookConfiguration" {
			unstructured.RemoveNestedField(object.Object, "webhooks")
		}
		return nil
	}
	values := helm.Values{
		"injection": helm.Values{"target": string(target)},
		"crds":      helm.Values{"install": false}, // which one release alone may, and they outlive it
	}
	if err := shared.Helm.InstallPatched(t.Context(), release, chart, values, noWebhook); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.Helm.Uninstall(release); err != nil {
			t.Error(err)
		}
	})

	namespace := withServiceAccount(t, shared, shared.Namespace(t, true))
	cluster.Eventually(t, "the guard is in force", func() error {
		object := newIstiod(t, target, cluster.Istiod(t, namespace)).object()
		object.SetNamespace(namespace)
		if err := shared.Create(t.Context(), object, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			return fmt.Errorf("creating an istiod answers %w", err)
		}
		return nil
	})
	return namespace
}

func withServiceAccount(t *testing.T, c *cluster.Cluster, namespace string) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istiod"}}
	if err := c.Create(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	return namespace
}

func env(pairs ...string) func(*istiod) {
	return func(i *istiod) {
		for n := 0; n < len(pairs); n += 2 {
			i.own().Env = append(i.own().Env, corev1.EnvVar{Name: pairs[n], Value: pairs[n+1]})
		}
	}
}

func manyVariables() []string {
	var pairs []string
	for i := range 1500 {
		pairs = append(pairs, fmt.Sprintf("VARIABLE_%d", i), "some value of usual length")
	}
	return pairs
}
