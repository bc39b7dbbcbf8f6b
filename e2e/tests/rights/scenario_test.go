// SPDX-License-Identifier: Apache-2.0

package rights

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// scenario has the program do all of its work.
type scenario struct {
	// system is a namespace of istiods whose service accounts get the agent's rights, other one of an istiod whose account
	// does not, meshes that of VirtualMeshes, and outside a labelled one that is not listed.
	system, other, meshes, outside string
	// before is the number of requests before the installation.
	before int
}

func newScenario(t *testing.T, limited bool) *scenario {
	t.Helper()
	s := &scenario{
		system: shared.Namespace(t, false), other: shared.Namespace(t, false), meshes: shared.Namespace(t, false),
		outside: shared.Namespace(t, limited),
	}
	must(t, shared.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: s.system}}))
	for _, namespace := range []string{s.system, s.other} {
		for _, name := range []string{"istio", "istio-canary"} {
			must(t, shared.Create(t.Context(), &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"istio.io/rev": "any"}},
				Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
			}))
		}
		shared.MustApply(t, cluster.Istiod(t, namespace))
	}
	s.pod(t, "istiod-0", map[string]string{"app": "istiod"}, nil, nil) // the guard is not there yet
	return s
}

// name returns the name of an object of a VirtualMesh.
func (s *scenario) name() string { return "istiod-" + s.system + "-cluster-1" }

// inject: existing istiods get the agent once their namespace is labelled, and their accounts the agent's rights.
func (s *scenario) inject(t *testing.T) {
	t.Helper()
	for _, namespace := range []string{s.system, s.other} {
		shared.Label(t, namespace, true)
		cluster.Eventually(t, "the existing istiod is injected", func() error { return hasAgent(shared.Stored(t, namespace, "istiod")) })
	}
	canary := cluster.Istiod(t, s.system, helm.Values{"revision": "canary"})
	cluster.Eventually(t, "a new istiod is injected", func() error { // the API server takes a while to have the policy
		_, err := shared.ServerSideApply(t.Context(), canary)
		return err
	})
	cluster.Eventually(t, "the service accounts have the agent's rights", func() error {
		var binding rbacv1.RoleBinding
		err := shared.Get(t.Context(), types.NamespacedName{Namespace: s.system, Name: "istiod-agent.istiods"}, &binding)
		if err == nil && len(binding.Subjects) != 2 {
			err = fmt.Errorf("subjects %v", binding.Subjects)
		}
		return err
	})
}

// leave: an existing istiod stays as it is until its next change, and an opted-out one keeps the agent until then. Events say
// so.
func (s *scenario) leave(t *testing.T) {
	t.Helper()
	for _, namespace := range []string{s.system, s.other} {
		shared.Label(t, namespace, true)
		wantEvent(t, namespace, "Missing", "istiod runs without the agent")
	}
	if err := hasAgent(shared.Stored(t, s.other, "istiod")); err == nil {
		t.Error("the existing istiod is injected")
	}
	// The API server's admission sees a changed label a little later.
	cluster.Eventually(t, "a change injects it", func() error {
		return hasAgent(change(t, s.other, `{"spec":{"template":{"metadata":{"annotations":{"changed":"yes"}}}}}`))
	})
	optOut := `{"metadata":{"annotations":{"istiod-agent.io/inject":"false"}}}`
	shared.Label(t, s.other, false)
	cluster.Eventually(t, "an opt-out would not be noticed", func() error { return hasAgent(change(t, s.other, optOut, client.DryRunAll)) })
	must(t, hasAgent(change(t, s.other, optOut)))
	shared.Label(t, s.other, true)
	wantEvent(t, s.other, "OptedOut", "still runs the agent")
	must(t, hasAgent(shared.Stored(t, s.other, "istiod")))
	shared.MustApply(t, cluster.Istiod(t, s.system, helm.Values{"revision": "canary"}))
}

// change changes an istiod and returns what is stored.
func change(t *testing.T, namespace, patch string, options ...client.PatchOption) *appsv1.Deployment {
	t.Helper()
	istiod := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istiod"}}
	must(t, shared.Patch(t.Context(), istiod, client.RawPatch(types.MergePatchType, []byte(patch)), options...))
	return istiod
}

func wantEvent(t *testing.T, namespace, reason, says string) {
	t.Helper()
	cluster.Eventually(t, "there is an Event "+reason, func() error {
		var events eventsv1.EventList
		must(t, shared.List(t.Context(), &events, client.InNamespace(namespace)))
		for _, event := range events.Items {
			if event.Reason == reason && strings.Contains(event.Note, says) {
				return nil
			}
		}
		return fmt.Errorf("there are %d others", len(events.Items))
	})
}

func hasAgent(istiod *appsv1.Deployment) error {
	for _, container := range istiod.Spec.Template.Spec.Containers {
		if container.Name == "istiod-agent" {
			return nil
		}
	}
	return errors.New("there is no agent")
}

// issue: a VirtualMesh gives IssuedCertificates, from whose status deleted Pods are removed.
func (s *scenario) issue(t *testing.T) {
	t.Helper()
	must(t, shared.Create(t.Context(), s.virtualMesh(true)))
	for _, name := range []string{s.name(), "istiod-canary-" + s.system + "-cluster-1"} {
		cluster.Eventually(t, "an IssuedCertificate and a PodBounceDirective exist", func() error {
			return errors.Join(s.get(t, certificatesv1.Kind, name), s.get(t, certificatesv1.PodBounceDirectiveKind, name))
		})
	}
	cluster.Eventually(t, "the VirtualMesh has a status", func() error {
		stored := s.virtualMesh(true)
		if err := shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored); err != nil {
			return err
		}
		if state, _, _ := unstructured.NestedString(stored.Object, "status", "state"); state == "" {
			return errors.New("it has none")
		}
		return nil
	})
	s.status(t, "istiod-0", "")
	s.status(t, "gone", "")
	cluster.Eventually(t, "the deleted Pod's entry is removed", func() error {
		object := s.object(certificatesv1.Kind, s.name())
		must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(object), object))
		if entries, _, _ := unstructured.NestedSlice(object.Object, "status", "certificates"); len(entries) != 1 {
			return fmt.Errorf("entries %v", entries)
		}
		return nil
	})
}

// restart: after a change of the root, the workloads of the mesh restart. Another program changes the PodBounceDirective
// meanwhile.
func (s *scenario) restart(t *testing.T) {
	t.Helper()
	first, second := testca.Root("first"), testca.Root("second")
	istiod := shared.Stored(t, s.system, "istiod")
	istiod.Status = appsv1.DeploymentStatus{ObservedGeneration: istiod.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
	must(t, shared.Status().Update(t.Context(), istiod))
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "istio-ca-root-cert", Namespace: s.system}, Data: map[string]string{"root-cert.pem": string(first.PEM())}}
	must(t, shared.Create(t.Context(), configMap))
	s.status(t, "istiod-0", pemcerts.Fingerprint(first.Certificate))
	s.wantRestarts(t, certificatesv1.RestartsIdle)

	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "workload"}}, Spec: containers()}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	at := func(name string, owner ...metav1.OwnerReference) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: s.system, Name: name, OwnerReferences: owner}
	}
	web := &appsv1.Deployment{ObjectMeta: at("web"), Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}
	db := &appsv1.StatefulSet{ObjectMeta: at("db"), Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}}
	node := &appsv1.DaemonSet{ObjectMeta: at("node"), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}
	for _, object := range []client.Object{web, db, node} {
		must(t, shared.Create(t.Context(), object))
	}
	replicas := func(name string, owner metav1.OwnerReference) *appsv1.ReplicaSet {
		set := &appsv1.ReplicaSet{ObjectMeta: at(name, owner), Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}}
		must(t, shared.Create(t.Context(), set))
		return set
	}
	kind := appsv1.SchemeGroupVersion.WithKind
	ofWeb := replicas("web-1", *metav1.NewControllerRef(web, kind("Deployment")))
	bare := replicas("argo-1", metav1.OwnerReference{APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "argo", UID: "0b1c", Controller: new(true)})
	for name, owner := range map[string]*metav1.OwnerReference{
		"web-1-x": metav1.NewControllerRef(ofWeb, kind("ReplicaSet")), "argo-1-x": metav1.NewControllerRef(bare, kind("ReplicaSet")),
		"db-0": metav1.NewControllerRef(db, kind("StatefulSet")), "node-x": metav1.NewControllerRef(node, kind("DaemonSet")),
	} {
		s.pod(t, name, map[string]string{"app": "workload", "service.istio.io/canonical-name": "workload"}, map[string]string{"istio.io/rev": "default"}, owner)
	}

	stop := s.disturb(t)
	s.status(t, "istiod-0", pemcerts.Fingerprint(second.Certificate))
	configMap.Data["root-cert.pem"] = string(second.PEM())
	must(t, shared.Update(t.Context(), configMap))
	cluster.Within(t, time.Minute, "every workload restarts", func() error {
		for _, object := range []client.Object{web, db, node} {
			if err := shared.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
				return err
			}
			if object.GetGeneration() != 2 {
				return fmt.Errorf("%s has generation %d", object.GetName(), object.GetGeneration())
			}
		}
		err := shared.Get(t.Context(), types.NamespacedName{Namespace: s.system, Name: "argo-1-x"}, &corev1.Pod{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Pod without a rollout exists: %w", err)
		}
		return nil
	})
	stop()
}

// disturb changes the PodBounceDirective until the controller has read it again after a conflict, which stop awaits.
func (s *scenario) disturb(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"disturbed":"%d"}}}`, i)
			if err := shared.Patch(ctx, s.object(certificatesv1.PodBounceDirectiveKind, s.name()), client.RawPatch(types.MergePatchType, patch)); err != nil && ctx.Err() == nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	return func() {
		cluster.Within(t, time.Minute, "a conflict", func() error {
			made, _ := s.requests(t)
			if !slices.Contains(made, request{s.system, certificatesv1.GroupVersion.Group, "podbouncedirectives", s.name(), "get"}) {
				return errors.New("there was none")
			}
			return nil
		})
		cancel()
		must(t, <-ended)
	}
}

// lack: a missing right is logged with its name, and its work is done once the right is there.
func (s *scenario) lack(t *testing.T) {
	t.Helper()
	all := grants(t)
	i := slices.IndexFunc(all, func(g grant) bool { return g.resource == "virtualmeshes/status" })
	restore := withhold(t, all[i])
	wantMayDo(t, request{s.meshes, all[i].group, all[i].resource, "mesh", all[i].verb}, false)
	must(t, shared.Patch(t.Context(), s.virtualMesh(true), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"mtlsConfig":{"autoRestartPods":false}}}`))))
	cluster.Eventually(t, "the log names the right", func() error {
		if !strings.Contains(shared.Webhook.Replicas[0].Log(), `cannot patch resource \"virtualmeshes/status\"`) {
			return errors.New("it does not")
		}
		return nil
	})
	restore()
	cluster.Within(t, time.Minute, "the status is written", func() error {
		stored := s.virtualMesh(true)
		must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored))
		if observed, _, _ := unstructured.NestedInt64(stored.Object, "status", "observedGeneration"); observed != stored.GetGeneration() {
			return fmt.Errorf("it is of generation %d", observed)
		}
		return nil
	})
}

// withdraw: what a VirtualMesh no longer requests is deleted.
func (s *scenario) withdraw(t *testing.T) {
	t.Helper()
	_, err := shared.ServerSideApply(t.Context(), s.virtualMesh(false), client.ForceOwnership)
	must(t, err)
	cluster.Eventually(t, "the PodBounceDirective is deleted", func() error { return s.wantGone(t, certificatesv1.PodBounceDirectiveKind) })
	must(t, shared.Delete(t.Context(), s.virtualMesh(false)))
	cluster.Eventually(t, "the IssuedCertificate is deleted", func() error { return s.wantGone(t, certificatesv1.Kind) })
}

// warn: an istiod whose service account lacks rights gets an Event, and a second one when it lacks others.
func (s *scenario) warn(t *testing.T) {
	t.Helper()
	lacks := func(n int, right string) {
		cluster.Within(t, time.Minute, "an Event says what the agent lacks", func() error {
			// A label of the namespace has the controller look again.
			must(t, shared.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.other}},
				client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"looked":"%d"}}}`, time.Now().UnixNano()))))
			var events eventsv1.EventList
			must(t, shared.List(t.Context(), &events, client.InNamespace(s.other)))
			for _, event := range events.Items {
				if event.Reason == "AgentLacksRights" && strings.Contains(event.Note, right) && (n == 1 || event.Series != nil) {
					return nil
				}
			}
			return fmt.Errorf("there are %d Events", len(events.Items))
		})
	}
	lacks(1, "list issuedcertificates")
	at := metav1.ObjectMeta{Namespace: s.other, Name: "some"}
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: at, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{certificatesv1.GroupVersion.Group}, Resources: []string{"issuedcertificates"}, Verbs: []string{"list"},
	}}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: at, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: at.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.other, Name: "istiod"}},
	}))
	lacks(2, "issuedcertificates")
}

// replaceCA: an unusable CA is replaced.
func (s *scenario) replaceCA(t *testing.T) {
	t.Helper()
	key := types.NamespacedName{Namespace: webhookserver.Release.Namespace, Name: webhookserver.Name + "-ca"}
	var secret corev1.Secret
	must(t, shared.Get(t.Context(), key, &secret))
	secret.Data["tls.crt"] = []byte("none")
	must(t, shared.Update(t.Context(), &secret))
	cluster.Eventually(t, "the CA is replaced", func() error {
		must(t, shared.Get(t.Context(), key, &secret))
		if _, err := pemcerts.Parse(secret.Data["tls.crt"]); err != nil {
			return err
		}
		return nil
	})
}

func injection() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(schema.GroupVersionKind{Group: "istiod-agent.io", Version: "v1alpha1", Kind: "Injection"})
	object.SetNamespace(webhookserver.Release.Namespace)
	object.SetName("istiod-agent")
	return object
}

// keepInjection: a changed Injection is corrected.
func (s *scenario) keepInjection(t *testing.T) {
	t.Helper()
	stored := injection()
	must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored))
	before := stored.GetGeneration()
	must(t, unstructured.SetNestedField(stored.Object, "0123456789abcdef", "spec", "digest"))
	must(t, shared.Update(t.Context(), stored))
	cluster.Eventually(t, "the Injection is corrected", func() error {
		must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored))
		if now := stored.GetGeneration(); now < before+2 {
			return fmt.Errorf("generation %d", now)
		}
		return nil
	})
}

// report: a labelled namespace that is not listed is reported.
func (s *scenario) report(t *testing.T) {
	t.Helper()
	replica := shared.Webhook.Replicas[0]
	cluster.Eventually(t, "the namespace is reported", func() error {
		value, _, err := replica.Sum(t.Context(), fmt.Sprintf("istiod_agent_namespaces_not_listed{namespace=%q}", s.outside))
		if err != nil {
			return err
		}
		if value != 1 || !strings.Contains(replica.Log(), s.outside) {
			return fmt.Errorf("the metric is %v", value)
		}
		return nil
	})
}

// warnAuthor: the author of an istiod in a namespace that is not listed is warned.
func (s *scenario) warnAuthor(t *testing.T, limited bool) {
	t.Helper()
	shared.Label(t, s.outside, true)
	var warnings warnings
	config := rest.CopyConfig(shared.Plane.Config)
	config.WarningHandler = &warnings
	c, err := client.New(config, client.Options{})
	must(t, err)
	istiod := cluster.Istiod(t, s.outside)
	cluster.Eventually(t, "an istiod is injected there", func() error {
		warnings = nil
		var stored appsv1.Deployment
		object := istiod.DeepCopy()
		if err := c.Create(t.Context(), object, client.DryRunAll); err != nil {
			return err
		}
		must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &stored))
		return hasAgent(&stored)
	})
	if text := strings.Join(warnings, " "); strings.Contains(text, "add the namespace to rbac.namespaces") != limited {
		t.Errorf("its author is warned: %q", text)
	}
}

// warnings are those of the API server.
type warnings []string

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) { *w = append(*w, text) }

func (s *scenario) virtualMesh(restart bool) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
	object.SetNamespace(s.meshes)
	object.SetName("mesh")
	object.Object["spec"] = map[string]any{
		"meshes": []any{map[string]any{"name": "*-" + s.system + "-cluster-1"}, map[string]any{"name": "*-" + s.other + "-cluster-1"}},
		"mtlsConfig": map[string]any{
			"autoRestartPods": restart,
			"shared": map[string]any{"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
				"server": "https://vault:8200", "caPath": "pki/root/sign-intermediate",
				"kubernetesAuth": map[string]any{"role": "istiod", "audience": "vault"},
			}}},
		},
	}
	return object
}

func (s *scenario) object(kind, name string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(kind))
	object.SetNamespace(s.system)
	object.SetName(name)
	return object
}

func (s *scenario) get(t *testing.T, kind, name string) error {
	t.Helper()
	object := s.object(kind, name)
	return shared.Get(t.Context(), client.ObjectKeyFromObject(object), object)
}

func (s *scenario) wantGone(t *testing.T, kind string) error {
	t.Helper()
	if err := s.get(t, kind, s.name()); !apierrors.IsNotFound(err) {
		return fmt.Errorf("it exists: %w", err)
	}
	return nil
}

func (s *scenario) wantRestarts(t *testing.T, state certificatesv1.RestartState) {
	t.Helper()
	cluster.Eventually(t, "the restarts are "+string(state), func() error {
		object := s.object(certificatesv1.PodBounceDirectiveKind, s.name())
		must(t, shared.Get(t.Context(), client.ObjectKeyFromObject(object), object))
		if found, _, _ := unstructured.NestedString(object.Object, "status", "state"); found != string(state) {
			return fmt.Errorf("status %v", object.Object["status"])
		}
		return nil
	})
}

// status writes the status as the agent of a Pod does.
func (s *scenario) status(t *testing.T, pod, root string) {
	t.Helper()
	report := certificatesv1.CertificateStatus{Pod: pod, Confirmed: true, RootFingerprint: root, NotBefore: new(metav1.Now())}
	if root != "" {
		report.TrustedRoots = []string{root}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&report)
	must(t, err)
	object := s.object(certificatesv1.Kind, s.name())
	object.Object["status"] = map[string]any{"state": "FINISHED", "certificates": []any{content}}
	must(t, shared.Status().Apply(t.Context(), client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("istiod-agent/"+pod), client.ForceOwnership))
}

func (s *scenario) pod(t *testing.T, name string, labels, annotations map[string]string, owner *metav1.OwnerReference) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.system, Name: name, Labels: labels, Annotations: annotations}, Spec: containers()}
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	must(t, shared.Create(t.Context(), pod))
}

func containers() corev1.PodSpec {
	return corev1.PodSpec{AutomountServiceAccountToken: new(false), Containers: []corev1.Container{{Name: "istio-proxy", Image: "registry.example/proxy"}}}
}
