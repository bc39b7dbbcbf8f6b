// SPDX-License-Identifier: Apache-2.0

// Package meshcluster sets up a cluster of a mesh as the guide does: a Vault with the mesh's root, istiod's Deployment, the
// VirtualMesh, and an istiod with its agent as processes. Each step is a method, for tests of what happens between the steps.
package meshcluster

import (
	"cmp"
	"context"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

const (
	// Namespace of istiod.
	Namespace = "istio-system"
	// Pod of the istiod that Start starts.
	Pod = "istiod-0"
	// multiRoot is the variable by which istiod distributes several roots. The agent reads it too.
	multiRoot = "ISTIO_MULTIROOT_MESH"
)

var must = check.Must

// Cluster is a cluster of a mesh.
type Cluster struct {
	*cluster.Cluster
	// Name is that of the cluster in the chart, in Istio, in the mesh, and as a context.
	Name    string
	Clients kubernetes.Interface
	Vault   *vaultserver.Server
	// Root is the one that Vault signs under at first.
	Root *vaultserver.Root
	// VirtualMesh is applied by ApplyMesh.
	VirtualMesh *unstructured.Unstructured
	// Node is the node that istiod's Pods have; none if empty.
	Node string

	// Istiod, Agent and Sidecar are nil before Start.
	Istiod  *istiodserver.Server
	Agent   *agents.Pod
	Sidecar *agents.Sidecar
}

// Options describe a cluster of a mesh.
type Options struct {
	Name string
	// Clusters are the names of all clusters of the mesh; this one alone if empty.
	Clusters []string
	// TrustDomain is cluster.local by default.
	TrustDomain string
	// Root returns the root for Vault; vaultserver.FastRoot by default.
	Root func() (*vaultserver.Root, error)
	// Vault configures Vault.
	Vault vaultserver.Options
	// Federate sets spec.federation of the VirtualMesh for all workloads.
	Federate bool
}

// Names are those of two clusters of one mesh.
var Names = []string{"cluster-1", "cluster-2"}

// New prepares a cluster for istiod: Vault, the namespace with its label, istiod's Deployment, which the webhook or the policy
// injects into if the chart is installed, and the VirtualMesh. The processes stop after the test; the objects remain.
func New(t *testing.T, c *cluster.Cluster, options Options) *Cluster {
	t.Helper()
	ctx := t.Context()
	m := &Cluster{Cluster: c, Name: options.Name}
	var err error
	m.Clients, err = kubernetes.NewForConfig(c.Plane.Config)
	must(t, err)
	for _, each := range []string{Namespace, "gloo-mesh"} {
		must(t, serviceaccount.EnsureNamespace(ctx, m.Clients, each))
	}
	values := istio.Values(Namespace, "1.31.0")
	values["global"].(helm.Values)["multiCluster"] = helm.Values{"clusterName": m.Name}
	istiod, err := istio.Deployment(ctx, Namespace, values)
	must(t, err)
	m.MustApply(t, istiod)
	must(t, m.SetInjection(ctx, Namespace, true))
	must(t, m.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: Namespace, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: " + cmp.Or(options.TrustDomain, "cluster.local")},
	}))
	m.Vault, err = vaultserver.Start(ctx, options.Vault)
	must(t, err)
	t.Cleanup(func() { must(t, m.Vault.Stop()) })
	root := options.Root
	if root == nil {
		root = vaultserver.FastRoot
	}
	m.Root, err = m.Vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: c.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: Namespace, Root: root,
	})
	must(t, err)
	must(t, agents.Install(ctx, c))
	m.VirtualMesh = m.virtualMesh(options)
	m.ApplyMesh(t)
	return m
}

func (m *Cluster) virtualMesh(options Options) *unstructured.Unstructured {
	clusters := options.Clusters
	if len(clusters) == 0 {
		clusters = []string{m.Name}
	}
	var meshes []any
	for _, name := range clusters {
		meshes = append(meshes, map[string]any{"name": "istiod-" + Namespace + "-" + name})
	}
	spec := map[string]any{
		"mtlsConfig": map[string]any{"shared": map[string]any{
			"intermediateCertOptions": map[string]any{"ecKeyCurve": "P-256"},
			"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
				"server": m.Vault.Address, "caPath": "pki/root/sign-intermediate", "kubernetesAuth": map[string]any{"role": vaultserver.Role},
			}},
		}},
		"meshes": meshes,
	}
	if options.Federate {
		spec["federation"] = map[string]any{"selectors": []any{map[string]any{}}}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.mesh.gloo.solo.io/v1", "kind": "VirtualMesh",
		"metadata": map[string]any{"name": "virtual-mesh", "namespace": "gloo-mesh"},
		"spec":     spec,
	}}
}

// ApplyMesh applies the VirtualMesh.
func (m *Cluster) ApplyMesh(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, "the VirtualMesh is admitted", func() error { // while the chart's webhook starts
		_, err := m.ServerSideApply(t.Context(), m.VirtualMesh, client.ForceOwnership)
		return err
	})
}

// SignAt changes the mount of Vault that signs for the mesh.
func (m *Cluster) SignAt(t *testing.T, mount string) {
	t.Helper()
	must(t, unstructured.SetNestedField(m.VirtualMesh.Object, mount+"/root/sign-intermediate",
		"spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault", "caPath"))
	m.ApplyMesh(t)
}

// Mount imports a root into a new mount of Vault, where the agents may sign from then on.
func (m *Cluster) Mount(t *testing.T, mount string, root *vaultserver.Root) {
	t.Helper()
	ctx, sys := t.Context(), m.Vault.Client.Sys()
	must(t, sys.MountWithContext(ctx, mount, &api.MountInput{Type: "pki"}))
	_, err := m.Vault.Client.Logical().WriteWithContext(ctx, mount+"/config/ca", map[string]any{"pem_bundle": string(root.Key) + string(root.Certificate)})
	must(t, err)
	policy, err := sys.GetPolicyWithContext(ctx, vaultserver.Role)
	must(t, err)
	must(t, sys.PutPolicyWithContext(ctx, vaultserver.Role, policy+`
path "`+mount+`/cert/ca" { capabilities = ["read"] }
path "`+mount+`/root/sign-intermediate" { capabilities = ["create", "read", "update"] }
`))
}

// Issued returns the IssuedCertificate that the controller keeps for the mesh.
func (m *Cluster) Issued(ctx context.Context) (*unstructured.Unstructured, error) {
	stored := &unstructured.Unstructured{}
	stored.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	return stored, m.Get(ctx, client.ObjectKey{Namespace: Namespace, Name: "istiod-" + Namespace + "-" + m.Name}, stored)
}

// CreatePod creates a Pod of istiod with the agent, which no kubelet runs. change may be nil.
func (m *Cluster) CreatePod(t *testing.T, namespace, name string, ready bool, change func(*corev1.Pod)) {
	t.Helper()
	ctx := t.Context()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace, Labels: map[string]string{"app": "istiod", "istio.io/rev": "default"},
			Annotations: map[string]string{"istiod-agent.io/inject": "false"}, // for the guard: it stands for an injected one
		},
		Spec: corev1.PodSpec{NodeName: m.Node, ServiceAccountName: agents.ServiceAccount, Containers: []corev1.Container{
			{Name: "discovery", Image: "registry.example/pilot"}, {Name: "istiod-agent", Image: "registry.example/agent"},
		}},
	}
	if change != nil {
		change(pod)
	}
	must(t, serviceaccount.Ensure(ctx, m.Clients, namespace, agents.ServiceAccount))
	must(t, m.Create(ctx, pod))
	if ready {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		must(t, m.Status().Update(ctx, pod))
	}
}

// Start starts an istiod with the agent, in a Pod that must not exist. Of the options, it uses Env and MeshConfig.
func (m *Cluster) Start(t *testing.T, options istiodserver.Options) {
	t.Helper()
	ctx := t.Context()
	m.CreatePod(t, Namespace, Pod, true, nil)
	var err error
	m.Agent, err = agents.NewPod(ctx, m.Cluster, Namespace, Pod, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	options.Plane, options.Namespace, options.CACerts, options.Pod = m.Plane, Namespace, m.Agent.CACerts, Pod
	if options.Env == nil {
		options.Env = map[string]string{}
	}
	options.Env["CLUSTER_ID"] = m.Name
	if value := options.Env[multiRoot]; value != "" {
		m.Agent.Env = []string{multiRoot + "=" + value}
	}
	_, err = m.Agent.Init(ctx)
	must(t, err)
	istiod, err := istiodserver.Start(ctx, options)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Name, "istiod:", process.LastLines(istiod.Process().Output()))
		}
		must(t, istiod.Stop())
	})
	m.Istiod = istiod
	m.Agent.IstiodAddress, m.Agent.MonitoringAddress = istiod.SecureAddress, istiod.MonitoringAddress
	m.StartSidecar(t)
}

// StartSidecar starts the agent's sidecar, also in place of one that has ended.
func (m *Cluster) StartSidecar(t *testing.T) {
	t.Helper()
	sidecar, err := m.Agent.Sidecar(t.Context())
	must(t, err)
	t.Cleanup(func() {
		_ = sidecar.Stop(10 * time.Second)
		if t.Failed() {
			t.Log(m.Name, "agent:", process.LastLines(sidecar.Output()))
		}
	})
	m.Sidecar = sidecar
}

// Kubeconfig writes a kubeconfig with an administrator's context for each cluster, by name, and with the contexts of other files.
func Kubeconfig(t *testing.T, clusters map[string]*cluster.Cluster, others map[string]string) (file string) {
	t.Helper()
	files := map[string]string{}
	for name, c := range clusters {
		admin, err := c.Plane.Kubeconfig("admin", "system:masters")
		must(t, err)
		files[name] = admin
	}
	maps.Copy(files, others)
	file = filepath.Join(t.TempDir(), "config")
	must(t, plugin.Kubeconfig(file, files))
	return file
}
