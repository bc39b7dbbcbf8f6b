// SPDX-License-Identifier: Apache-2.0

// Package rotation tests the change of the root of trust in stages with the chart's controllers, a Vault, istiods with their
// agents, and workloads that talk to each other all the time.
package rotation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	beTool() // of a page's shell
	cluster.Main(m, &shared, &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}})
}

// mesh is an istiod with two replicas, a Vault and the guide's VirtualMesh.
type mesh struct {
	namespace string
	vault     *vaultserver.Server
	root      *vaultserver.Root // of mount pki
	object    *unstructured.Unstructured

	mu      sync.Mutex
	istiods []*istiodserver.Server
	asked   sync.RWMutex // held by whoever asks them
}

// newMesh returns a mesh without istiod processes.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	ctx := t.Context()
	m := &mesh{namespace: shared.Namespace(t, true)}
	istiod := cluster.Istiod(t, m.namespace, helm.Values{"replicaCount": 2, "autoscaleEnabled": false})
	must(t, unstructured.SetNestedField(istiod.Object, int64(2), "spec", "replicas"))
	shared.MustApply(t, istiod)
	must(t, shared.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: m.namespace, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
	}))
	var err error
	m.vault, err = vaultserver.Start(ctx, vaultserver.Options{Storage: true})
	must(t, err)
	t.Cleanup(func() { must(t, m.vault.Stop()) })
	m.root, err = m.vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: shared.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: m.namespace, Root: vaultserver.FastRoot,
	})
	must(t, err)
	must(t, agents.Install(ctx, shared))

	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "config", "samples", "virtualmesh.yaml"))
	must(t, err)
	objects, err := manifest.Parse(bytes.ReplaceAll(content, []byte("istiod-istio-system-cluster"), []byte("istiod-"+m.namespace+"-cluster")))
	must(t, err)
	m.object = objects[0]
	must(t, client.IgnoreAlreadyExists(shared.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: m.object.GetNamespace()}})))
	t.Cleanup(func() { _ = client.IgnoreNotFound(shared.Delete(context.Background(), m.object.DeepCopy())) })
	vault := m.vaultOf()
	vault["server"] = m.vault.Address
	delete(vault, "csrPath")
	must(t, unstructured.SetNestedField(m.object.Object, map[string]any{"ecKeyCurve": "P-256"}, "spec", "mtlsConfig", "shared", "intermediateCertOptions"))
	return m
}

func (m *mesh) vaultOf() map[string]any {
	vault, _, _ := unstructured.NestedFieldNoCopy(m.object.Object, "spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault")
	return vault.(map[string]any)
}

func (m *mesh) apply(t *testing.T) {
	t.Helper()
	_, err := shared.ServerSideApply(t.Context(), m.object, client.ForceOwnership)
	must(t, err)
}

// reached waits until a stage is complete in the status.
func (m *mesh) reached(t *testing.T, stage networkingv1.RootRotationStage) {
	t.Helper()
	cluster.Within(t, 3*time.Minute, "the change of the root is at "+string(stage), func() error {
		status, err := m.rotation(t.Context())
		if err == nil && (status.Stage != stage || !status.Complete) {
			err = fmt.Errorf("it is %+v", status)
		}
		return err
	})
}

func (m *mesh) rotation(ctx context.Context) (networkingv1.RootRotationStatus, error) {
	stored := m.object.DeepCopy()
	if err := shared.Get(ctx, client.ObjectKeyFromObject(m.object), stored); err != nil {
		return networkingv1.RootRotationStatus{}, err
	}
	var status networkingv1.VirtualMeshStatus
	content, _, _ := unstructured.NestedMap(stored.Object, "status")
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, &status); err != nil || status.RootRotation == nil {
		return networkingv1.RootRotationStatus{}, errors.Join(errors.New("there is none"), err)
	}
	return *status.RootRotation, nil
}

// replica starts an injected istiod Pod: the init container, istiod, the sidecar.
func (m *mesh) replica(t *testing.T, name string) (*agents.Pod, *agents.Sidecar) {
	t.Helper()
	pod, err := agents.NewPod(t.Context(), shared, m.namespace, name, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	pod.Env = []string{"ISTIO_MULTIROOT_MESH=true"}
	if _, err := pod.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	istiod := m.start(t, name, pod.CACerts)
	pod.IstiodAddress = istiod.SecureAddress
	return pod, m.sidecar(t, pod)
}

func (m *mesh) sidecar(t *testing.T, pod *agents.Pod) *agents.Sidecar {
	t.Helper()
	sidecar, err := pod.Sidecar(t.Context())
	must(t, err)
	t.Cleanup(func() {
		_ = sidecar.Stop(10 * time.Second)
		if t.Failed() {
			t.Log(pod.Name, sidecar.Output())
		}
	})
	return sidecar
}

// start starts an istiod with ISTIO_MULTIROOT_MESH.
func (m *mesh) start(t *testing.T, name, cacerts string) *istiodserver.Server {
	t.Helper()
	istiod, err := istiodserver.Start(t.Context(), istiodserver.Options{
		Plane: shared.Plane, Namespace: m.namespace, CACerts: cacerts, Pod: name,
		MeshConfig: "discoverySelectors: [{matchLabels: {kubernetes.io/metadata.name: " + m.namespace + "}}]",
		Env:        map[string]string{"ISTIO_MULTIROOT_MESH": "true"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, istiod.Stop()) })
	m.mu.Lock()
	m.istiods = append(m.istiods, istiod)
	m.mu.Unlock()
	return istiod
}

// serving returns the running istiods.
func (m *mesh) serving() []*istiodserver.Server {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*istiodserver.Server(nil), m.istiods...)
}

// ask calls use with the running istiods. None of them ends meanwhile.
func (m *mesh) ask(use func([]*istiodserver.Server) error) error {
	m.asked.RLock()
	defer m.asked.RUnlock()
	return use(m.serving())
}

// stop stops the running istiods once all requests to them are answered.
func (m *mesh) stop(t *testing.T, keep ...*istiodserver.Server) {
	t.Helper()
	m.mu.Lock()
	old := m.istiods
	m.istiods = keep
	m.mu.Unlock()
	m.asked.Lock()
	m.asked.Unlock() //nolint:staticcheck // those who ask from now on ask others
	for _, istiod := range old {
		gone := true
		for _, each := range keep {
			gone = gone && each != istiod
		}
		if gone {
			must(t, istiod.Stop())
		}
	}
}

// talk starts the workloads; done stops them and expects that no handshake failed.
func (m *mesh) talk(t *testing.T) (f *fleet, done func()) {
	t.Helper()
	cluster.Within(t, time.Minute, "istiod has published its root", func() error {
		_, err := m.serving()[0].PublishedRoot(t.Context(), m.namespace)
		return err
	})
	f, err := newFleet(t.Context(), m.namespace, 4, m.ask)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); f.run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return f, func() {
		t.Helper()
		cancel()
		<-ended
		handshakes, rounds, failures := f.result()
		if len(failures) > 0 {
			t.Errorf("of %d handshakes, these failed: %s", handshakes, strings.Join(failures, "\n"))
		}
		t.Logf("%d handshakes; each workload renewed its certificate %d times", handshakes, rounds)
	}
}

// renewed waits until every workload has started and finished a renewal.
func (f *fleet) renewed(t *testing.T) {
	t.Helper()
	_, before, _ := f.result()
	cluster.Within(t, 2*time.Minute, "every workload has renewed its certificate", func() error {
		if _, rounds, _ := f.result(); rounds < before+2 {
			return fmt.Errorf("%d of 2 times", rounds-before)
		}
		return nil
	})
}

// published expects exactly these roots in the guide's last step.
func (m *mesh) published(t *testing.T, roots ...[]byte) {
	t.Helper()
	var want []byte
	for _, root := range roots {
		want = append(want, append(bytes.TrimSpace(root), '\n')...)
	}
	cluster.Within(t, time.Minute, "istio-ca-root-cert holds the roots", func() error {
		found, err := m.serving()[0].PublishedRoot(t.Context(), m.namespace)
		if err == nil && !bytes.Equal(bytes.TrimSpace(found), bytes.TrimSpace(want)) { // istiod's own ends with a newline, an agent's with none
			err = fmt.Errorf("it holds %d bytes of %d", len(found), len(want))
		}
		return err
	})
}

// istiodsRole grants istiod the rights of Istio's chart on Secrets in its namespace, which hold its own CA.
func (m *mesh) istiodsRole(t *testing.T) {
	t.Helper()
	must(t, shared.Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: m.namespace},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create", "get", "watch", "list", "update", "delete"}}},
	}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "istiod", Namespace: m.namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "istiod"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: agents.ServiceAccount, Namespace: m.namespace}},
	}))
}
