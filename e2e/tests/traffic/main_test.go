// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"fmt"
	"net"
	"os"
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
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

const (
	istioNamespace = "istio-system"
	istiodPod      = "istiod-0"
)

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	if load := os.Getenv(loadVariable); load != "" { // this process is a client
		if err := loadMain(load); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	cluster.MainOfSeveral(m,
		cluster.Spec{Into: &one, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}},
		cluster.Spec{Into: &two, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-2"}}})
}

// side is one of the two clusters, with its Vault, its istiod, and the agent.
type side struct {
	*cluster.Cluster
	name    string // of the cluster, in Istio and as a context
	region  string
	vault   *vaultserver.Server
	root    *vaultserver.Root
	mesh    *unstructured.Unstructured
	clients kubernetes.Interface

	istiod  *istiodserver.Server
	agent   *agents.Pod
	sidecar *agents.Sidecar
}

// newSide starts an istiod under a root, in a mesh of both clusters.
func newSide(t *testing.T, c *cluster.Cluster, index int, root func() (*vaultserver.Root, error)) *side {
	t.Helper()
	ctx := t.Context()
	s := &side{Cluster: c, name: fmt.Sprintf("cluster-%d", index), region: fmt.Sprintf("region-%d", index)}
	var err error
	s.clients, err = kubernetes.NewForConfig(c.Plane.Config)
	must(t, err)
	for _, each := range []string{istioNamespace, "gloo-mesh"} {
		must(t, serviceaccount.EnsureNamespace(ctx, s.clients, each))
	}
	values := istio.Values(istioNamespace, "1.31.0")
	values["global"].(helm.Values)["multiCluster"] = helm.Values{"clusterName": s.name}
	istiod, err := istio.Deployment(ctx, istioNamespace, values)
	must(t, err)
	s.MustApply(t, istiod)
	must(t, s.SetInjection(ctx, istioNamespace, true))
	must(t, s.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: istioNamespace, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
	}))
	s.vault, err = vaultserver.Start(ctx, vaultserver.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, s.vault.Stop()) })
	s.root, err = s.vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: c.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: istioNamespace, Root: root,
	})
	must(t, err)
	must(t, agents.Install(ctx, c))
	s.mesh = &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.mesh.gloo.solo.io/v1", "kind": "VirtualMesh",
		"metadata": map[string]any{"name": "virtual-mesh", "namespace": "gloo-mesh"},
		"spec": map[string]any{
			"mtlsConfig": map[string]any{"shared": map[string]any{
				"intermediateCertOptions": map[string]any{"ecKeyCurve": "P-256"},
				"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
					"server": s.vault.Address, "caPath": "pki/root/sign-intermediate", "kubernetesAuth": map[string]any{"role": vaultserver.Role},
				}},
			}},
			"meshes": []any{map[string]any{"name": "istiod-istio-system-cluster-1"}, map[string]any{"name": "istiod-istio-system-cluster-2"}},
		},
	}}
	s.applyMesh(t)
	s.replica(t)
	return s
}

func (s *side) applyMesh(t *testing.T) {
	t.Helper()
	cluster.Eventually(t, "the VirtualMesh is admitted", func() error { // while the webhook starts
		_, err := s.ServerSideApply(t.Context(), s.mesh, client.ForceOwnership)
		return err
	})
}

// signAt changes the Vault path of the mesh.
func (s *side) signAt(t *testing.T, path string) {
	t.Helper()
	must(t, unstructured.SetNestedField(s.mesh.Object, path,
		"spec", "mtlsConfig", "shared", "intermediateCertificateAuthority", "vault", "caPath"))
	s.applyMesh(t)
}

// issued returns the IssuedCertificate that the controller keeps for the mesh.
func (s *side) issued(ctx context.Context) (*unstructured.Unstructured, error) {
	stored := &unstructured.Unstructured{}
	stored.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	return stored, s.Get(ctx, client.ObjectKey{Namespace: istioNamespace, Name: "istiod-istio-system-" + s.name}, stored)
}

// mount imports a root into a new PKI mount of Vault, where the agents may sign from then on.
func (s *side) mount(t *testing.T, name string, root *vaultserver.Root) {
	t.Helper()
	ctx, sys := t.Context(), s.vault.Client.Sys()
	must(t, sys.MountWithContext(ctx, name, &api.MountInput{Type: "pki"}))
	_, err := s.vault.Client.Logical().WriteWithContext(ctx, name+"/config/ca", map[string]any{"pem_bundle": string(root.Key) + string(root.Certificate)})
	must(t, err)
	policy, err := sys.GetPolicyWithContext(ctx, vaultserver.Role)
	must(t, err)
	must(t, sys.PutPolicyWithContext(ctx, vaultserver.Role, policy+`
path "`+name+`/cert/ca" { capabilities = ["read"] }
path "`+name+`/root/sign-intermediate" { capabilities = ["create", "read", "update"] }
`))
}

// replica starts an injected istiod.
func (s *side) replica(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	var err error
	s.agent, err = agents.NewPod(ctx, s.Cluster, istioNamespace, istiodPod, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	s.agent.Env = []string{"ISTIO_MULTIROOT_MESH=true"}
	_, err = s.agent.Init(ctx)
	must(t, err)
	s.istiod, err = istiodserver.Start(ctx, istiodserver.Options{
		Plane: s.Plane, Namespace: istioNamespace, CACerts: s.agent.CACerts, Pod: istiodPod,
		Env: map[string]string{"ISTIO_MULTIROOT_MESH": "true", "CLUSTER_ID": s.name},
	})
	must(t, err)
	t.Cleanup(func() {
		must(t, s.istiod.Stop())
		if t.Failed() {
			t.Log(s.name, "istiod:", lastLines(s.istiod.Process().Output(), 60))
		}
	})
	s.agent.IstiodAddress = s.istiod.SecureAddress
	s.startSidecar(t)
}

func (s *side) startSidecar(t *testing.T) {
	t.Helper()
	sidecar, err := s.agent.Sidecar(t.Context())
	must(t, err)
	s.sidecar = sidecar
	t.Cleanup(func() {
		_ = sidecar.Stop(10 * time.Second)
		if t.Failed() {
			t.Log(s.name, "agent:", lastLines(sidecar.Output(), 30))
		}
	})
}

// join joins the clusters by the plugin. No Pod runs here, so the calls show in place of --probe and --wait that endpoints arrive.
func join(t *testing.T, kubeconfig string, sides ...*side) {
	t.Helper()
	arguments := []string{"join", "--wait=false", "--probe=false"}
	for _, s := range sides {
		arguments = append(arguments, "--api-server="+s.name+"="+s.Plane.Config.Host)
	}
	if r := run(t, kubeconfig, arguments...); r.Code != 0 {
		t.Fatal(r)
	}
}

// contexts writes a kubeconfig with the two clusters.
func contexts(t *testing.T) (file string) {
	t.Helper()
	files := map[string]string{}
	for name, c := range map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two} {
		admin, err := c.Plane.Kubeconfig("admin", "system:masters")
		must(t, err)
		files[name] = admin
	}
	file = filepath.Join(t.TempDir(), "config")
	must(t, plugin.Kubeconfig(file, files))
	return file
}

// run runs the plugin with both contexts.
func run(t *testing.T, kubeconfig string, arguments ...string) plugin.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := plugin.Run(ctx, "", append(arguments, "--context=cluster-1", "--context=cluster-2", "--kubeconfig", kubeconfig)...)
	if testing.Verbose() {
		t.Logf("kubectl istiod-agent %s\n%s", arguments, r)
	}
	return r
}

// address returns an address of this machine for the Pods: the API server refuses a loopback address in an EndpointSlice.
func address(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	must(t, err)
	for _, each := range all {
		if network, ok := each.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	t.Skip("this machine has no IPv4 address besides loopback, and an EndpointSlice cannot hold a loopback address")
	return ""
}
