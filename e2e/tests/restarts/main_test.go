// SPDX-License-Identifier: Apache-2.0

// Package restarts tests which workloads restart after a change of the root. Two controllers run with the chart's rights and
// without leader election, so that each of them must cope with the other.
package restarts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.Main(m, &shared, &webhookserver.Options{
		Replicas:      2,
		Values:        values(true),
		Configuration: map[string]any{"server": map[string]any{"leaderElection": false}},
	})
}

// values returns the chart's values, with or without the rights to restart Pods.
func values(restarts bool) helm.Values {
	return helm.Values{"clusterName": "cluster-1", "restarts": helm.Values{"enabled": restarts}}
}

// root is a root CA.
type root struct{ pem, fingerprint string }

func newRoot() root {
	made := testca.Root("my-org")
	return root{string(made.PEM()), pemcerts.Fingerprint(made.Certificate)}
}

// mesh is an istiod, whose agents the test replaces, and namespaces with workloads.
type mesh struct {
	*player
	// system is the namespace of istiod and the gateway; a and b are namespaces of workloads.
	system, a, b string

	mu sync.Mutex
	// vault is the root of an istiod that starts now.
	vault root
}

// newMesh returns a running mesh with one root, whose VirtualMesh is the guide's and restarts Pods.
func newMesh(t *testing.T) (*mesh, root) {
	t.Helper()
	first := newRoot()
	m := &mesh{system: namespace(t, true), a: namespace(t, false), b: namespace(t, false), vault: first}
	m.player = &player{namespaces: []string{m.system, m.a, m.b}, born: m.born}
	for _, each := range m.namespaces {
		m.publish(t, each, first)
	}
	must(t, shared.Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: m.system, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
	}))
	m.play(t)
	istiod := deployment(m.system, "istiod", map[string]string{"app": "istiod", "istio.io/rev": "default"}, nil)
	istiod.Labels = map[string]string{"app": "istiod"}
	istiod.Spec.Replicas = new(int32(2))
	istiod.Spec.Template.Spec.ServiceAccountName = "istiod"
	istiod.Spec.Template.Spec.Containers[0].Name = "discovery"
	must(t, shared.Create(t.Context(), istiod))
	m.virtualMesh(t, true)
	cluster.Eventually(t, "istiod's agents report, and pods are taken to trust the first root", func() error {
		status := m.status(t)
		if reported := m.reported(t); len(reported) != 2 {
			return fmt.Errorf("%d report", len(reported))
		}
		if status.State != certificatesv1.RestartsIdle || !slices.Equal(status.Roots, []string{first.fingerprint}) {
			return fmt.Errorf("status %+v", status)
		}
		return nil
	})
	return m, first
}

func namespace(t *testing.T, labelled bool) string {
	t.Helper()
	name := shared.Namespace(t, labelled)
	must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: name}})))
	return name
}

// deployment returns a Deployment whose Pods have the labels and annotations of istiod's injection.
func deployment(namespace, name string, labels, annotations map[string]string) *appsv1.Deployment {
	if labels["app"] == "" {
		labels["app"] = name
	}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": labels["app"]}}, Template: template(labels, annotations),
		},
	}
}

func template(labels, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "istio-proxy", Image: "registry.example/proxy"}}},
	}
}

// proxy returns the labels and annotations of an injected Pod.
func proxy(name string, more ...string) (labels, annotations map[string]string) {
	labels = map[string]string{"app": name, "service.istio.io/canonical-name": name}
	for i := 0; i < len(more); i += 2 {
		labels[more[i]] = more[i+1]
	}
	return labels, map[string]string{"istio.io/rev": "default", "sidecar.istio.io/status": `{"revision":"default"}`}
}

// run creates a workload with a proxy and waits for its Pods.
func (m *mesh) run(t *testing.T, object client.Object) {
	t.Helper()
	must(t, shared.Create(t.Context(), object))
	app := object.GetName()
	cluster.Eventually(t, app+" runs", func() error {
		if len(names(t, object.GetNamespace(), "app", app)) == 0 {
			return errors.New("it has no Pod")
		}
		return nil
	})
}

func (m *mesh) runDeployment(t *testing.T, namespace, name string, more ...string) {
	t.Helper()
	labels, annotations := proxy(name, more...)
	m.run(t, deployment(namespace, name, labels, annotations))
}

// restarts returns the number of changes of a workload's template.
func restarts(t *testing.T, object client.Object, namespace, name string) int {
	t.Helper()
	must(t, shared.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, object))
	return int(object.GetGeneration()) - 1
}

// wantRestarts waits for the number of restarts of each NAMESPACE/NAME.
func wantRestarts(t *testing.T, what string, want map[string]int) {
	t.Helper()
	cluster.Within(t, limit, what, func() error {
		for key, n := range want {
			namespace, name, _ := strings.Cut(key, "/")
			if got := restarts(t, &appsv1.Deployment{}, namespace, name); got != n {
				return fmt.Errorf("%s was restarted %d times, want %d", name, got, n)
			}
		}
		return nil
	})
}

// publish updates a namespace's ConfigMap as istiod does.
func (m *mesh) publish(t *testing.T, namespace string, roots ...root) {
	t.Helper()
	text := ""
	for _, each := range roots {
		text += each.pem
	}
	at := metav1.ObjectMeta{Name: "istio-ca-root-cert", Namespace: namespace}
	stored := &corev1.ConfigMap{ObjectMeta: at}
	if err := shared.Get(t.Context(), client.ObjectKeyFromObject(stored), stored); err != nil {
		must(t, client.IgnoreNotFound(err))
		must(t, shared.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: at, Data: map[string]string{"root-cert.pem": text}}))
		return
	}
	stored.Data = map[string]string{"root-cert.pem": text}
	must(t, shared.Update(t.Context(), stored))
}

func (m *mesh) name() string { return "istiod-" + m.system + "-cluster-1" }

// born gives a new istiod Vault's root.
func (m *mesh) born(ctx context.Context, pod *corev1.Pod) error {
	if pod.Labels["app"] != "istiod" {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.apply(ctx, pod.Name, certificatesv1.CertificateStatus{RootFingerprint: m.vault.fingerprint, TrustedRoots: []string{m.vault.fingerprint}})
}

// apply writes the status as the agent in a Pod does, and retries until the IssuedCertificate exists.
func (m *mesh) apply(ctx context.Context, pod string, report certificatesv1.CertificateStatus) error {
	report.Pod, report.Confirmed = pod, true
	now := metav1.Now()
	report.NotBefore = &now
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&report)
	if err != nil {
		return err
	}
	object := untyped(certificatesv1.GroupVersion.String(), certificatesv1.Kind, m.system, m.name())
	object.Object["status"] = map[string]any{"state": "FINISHED", "certificates": []any{content}}
	return shared.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(object), client.FieldOwner("istiod-agent/"+pod), client.ForceOwnership)
}

// istiods returns the names of istiod's Pods.
func (m *mesh) istiods(t *testing.T) []string {
	t.Helper()
	return names(t, m.system, "app", "istiod")
}

// offer changes Vault's root, so that the agents of running istiods reject it.
func (m *mesh) offer(t *testing.T, was, is root) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vault = is
	for _, pod := range m.istiods(t) {
		must(t, m.apply(t.Context(), pod, certificatesv1.CertificateStatus{
			RootFingerprint: was.fingerprint, TrustedRoots: []string{was.fingerprint}, OfferedRootFingerprint: is.fingerprint,
		}))
	}
}

// sign makes all istiods sign under a root and publish some roots.
func (m *mesh) sign(t *testing.T, under root, roots ...root) {
	t.Helper()
	var trusted []string
	for _, each := range roots {
		trusted = append(trusted, each.fingerprint)
	}
	for _, pod := range m.istiods(t) {
		must(t, m.apply(t.Context(), pod, certificatesv1.CertificateStatus{RootFingerprint: under.fingerprint, TrustedRoots: trusted}))
	}
}

func (m *mesh) certificate(t *testing.T) *certificatesv1.IssuedCertificate {
	t.Helper()
	object := untyped(certificatesv1.GroupVersion.String(), certificatesv1.Kind, m.system, m.name())
	if err := shared.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		must(t, client.IgnoreNotFound(err))
		return &certificatesv1.IssuedCertificate{}
	}
	var certificate certificatesv1.IssuedCertificate
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &certificate))
	return &certificate
}

func (m *mesh) reported(t *testing.T) []certificatesv1.CertificateStatus {
	t.Helper()
	return m.certificate(t).Status.Certificates
}

func directiveOf(namespace, name string) *unstructured.Unstructured {
	return untyped(certificatesv1.GroupVersion.String(), certificatesv1.PodBounceDirectiveKind, namespace, name)
}

// statusOf returns a directive's status, empty if there is none.
func statusOf(t *testing.T, namespace, name string) certificatesv1.PodBounceDirectiveStatus {
	t.Helper()
	object := directiveOf(namespace, name)
	if err := shared.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
		must(t, client.IgnoreNotFound(err))
		return certificatesv1.PodBounceDirectiveStatus{}
	}
	var directive certificatesv1.PodBounceDirective
	must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &directive))
	return directive.Status
}

func (m *mesh) status(t *testing.T) certificatesv1.PodBounceDirectiveStatus {
	t.Helper()
	return statusOf(t, m.system, m.name())
}

// wantStatus waits until a directive's status holds a text.
func wantStatus(t *testing.T, namespace, name string, state certificatesv1.RestartState, says string) (status certificatesv1.PodBounceDirectiveStatus) {
	t.Helper()
	cluster.Within(t, limit, fmt.Sprintf("the restarts are %s: %s", state, says), func() error {
		if status = statusOf(t, namespace, name); status.State != state || !strings.Contains(status.Message, says) {
			return fmt.Errorf("%s: %s", status.State, status.Message)
		}
		return nil
	})
	return status
}

func (m *mesh) wantStatus(t *testing.T, state certificatesv1.RestartState, says string) certificatesv1.PodBounceDirectiveStatus {
	t.Helper()
	return wantStatus(t, m.system, m.name(), state, says)
}

// virtualMesh applies the guide's VirtualMesh for this mesh.
func (m *mesh) virtualMesh(t *testing.T, restart bool) {
	t.Helper()
	rootDirectory, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(rootDirectory, "config", "samples", "virtualmesh.yaml"))
	must(t, err)
	content = bytes.ReplaceAll(content, []byte("istiod-istio-system-cluster"), []byte("istiod-"+m.system+"-cluster"))
	objects, err := manifest.Parse(content)
	must(t, err)
	must(t, client.IgnoreAlreadyExists(shared.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: objects[0].GetNamespace()}})))
	objects[0].SetName("virtual-mesh-of-" + m.system)
	must(t, unstructured.SetNestedField(objects[0].Object, restart, "spec", "mtlsConfig", "autoRestartPods"))
	_, err = shared.ServerSideApply(t.Context(), objects[0], client.ForceOwnership)
	must(t, err)
	t.Cleanup(func() { _ = client.IgnoreNotFound(shared.Delete(context.Background(), objects[0].DeepCopy())) })
}
