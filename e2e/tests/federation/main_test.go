// SPDX-License-Identifier: Apache-2.0

// Package federation tests what is reported of a mesh of two clusters: an istiod with its agent in the first one reads the API
// server of the second one by a remote secret.
package federation

import (
	"context"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

const (
	namespace = "istio-system"
	pod       = "istiod-0"
	reader    = "istio-reader"
)

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.MainOfSeveral(m, cluster.Spec{Into: &one, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}},
		cluster.Spec{Into: &two})
}

// mesh is the first cluster's, with its programs.
type mesh struct {
	kubeconfig string
	object     *unstructured.Unstructured
	istiod     *istiodserver.Server
	agent      *agents.Pod
	sidecar    *agents.Sidecar
	// remote is the second cluster's API server, as istiod reaches it.
	remote *relay
}

// start applies the guide's VirtualMesh and starts an istiod with its agent.
func start(t *testing.T) *mesh {
	t.Helper()
	ctx := t.Context()
	clients, err := kubernetes.NewForConfig(one.Plane.Config)
	must(t, err)
	for _, each := range []string{namespace, "gloo-mesh"} {
		must(t, serviceaccount.EnsureNamespace(ctx, clients, each))
	}
	one.MustApply(t, cluster.Istiod(t, namespace))
	must(t, one.SetInjection(ctx, namespace, true))
	must(t, one.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "istio", Namespace: namespace, Labels: map[string]string{"istio.io/rev": "default"}},
		Data:       map[string]string{"mesh": "trustDomain: cluster.local"},
	}))
	vault, err := vaultserver.Start(ctx, vaultserver.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, vault.Stop()) })
	_, err = vault.Guide(ctx, vaultserver.GuideOptions{Cluster: one.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace, Root: vaultserver.FastRoot})
	must(t, err)
	must(t, agents.Install(ctx, one))
	m := &mesh{object: &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.mesh.gloo.solo.io/v1", "kind": "VirtualMesh",
		"metadata": map[string]any{"name": "virtual-mesh", "namespace": "gloo-mesh"},
		"spec": map[string]any{
			"mtlsConfig": map[string]any{"shared": map[string]any{
				"intermediateCertOptions": map[string]any{"ecKeyCurve": "P-256"},
				"intermediateCertificateAuthority": map[string]any{"vault": map[string]any{
					"server": vault.Address, "caPath": "pki/root/sign-intermediate", "kubernetesAuth": map[string]any{"role": vaultserver.Role},
				}},
			}},
			"federation": map[string]any{"selectors": []any{map[string]any{}}},
			"meshes":     []any{map[string]any{"name": "istiod-istio-system-cluster-1"}, map[string]any{"name": "istiod-istio-system-cluster-2"}},
		},
	}}}
	cluster.Eventually(t, "the VirtualMesh is admitted", func() error { // while the chart's webhook starts
		_, err := one.ServerSideApply(ctx, m.object.DeepCopy(), client.ForceOwnership)
		return err
	})

	must(t, serviceaccount.Ensure(ctx, clients, namespace, agents.ServiceAccount))
	istiod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod, Namespace: namespace, Labels: map[string]string{"app": "istiod"},
			Annotations: map[string]string{"istiod-agent.io/inject": "false"}, // for the guard: it stands for an injected one
		},
		Spec: corev1.PodSpec{ServiceAccountName: agents.ServiceAccount, Containers: []corev1.Container{
			{Name: "discovery", Image: "registry.example/pilot"}, {Name: "istiod-agent", Image: "registry.example/agent"},
		}},
	}
	must(t, one.Create(ctx, istiod))
	istiod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	must(t, one.Status().Update(ctx, istiod))

	m.remote = startRelay(t, two.Plane.Config.Host)
	m.agent, err = agents.NewPod(ctx, one, namespace, pod, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	_, err = m.agent.Init(ctx)
	must(t, err)
	m.istiod, err = istiodserver.Start(ctx, istiodserver.Options{
		Plane: one.Plane, Namespace: namespace, CACerts: m.agent.CACerts, Pod: pod,
		// A remote cluster that cannot be read holds up istiod's start for that long; 30 s by default.
		Env: map[string]string{"CLUSTER_ID": "cluster-1", "PILOT_REMOTE_CLUSTER_TIMEOUT": "3s"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, m.istiod.Stop()) })
	m.agent.IstiodAddress, m.agent.MonitoringAddress = m.istiod.SecureAddress, m.istiod.MonitoringAddress
	m.sidecar, err = m.agent.Sidecar(ctx)
	must(t, err)
	t.Cleanup(func() {
		_ = m.sidecar.Stop(10 * time.Second)
		if t.Failed() {
			t.Log(m.sidecar.Output())
		}
	})
	admin, err := one.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	m.kubeconfig = filepath.Join(t.TempDir(), "config")
	must(t, plugin.Kubeconfig(m.kubeconfig, map[string]string{"cluster-1": admin}))
	return m
}

// account creates the service account in the second cluster that a remote secret has a token of.
func account(t *testing.T, name string) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(two.Plane.Config)
	must(t, err)
	must(t, serviceaccount.Ensure(t.Context(), clients, namespace, name))
	must(t, two.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: namespace}},
	}))
}

// join creates the remote secret, as `istioctl create-remote-secret` does, or renews its token.
func (m *mesh) join(t *testing.T, account string) {
	t.Helper()
	clients, err := kubernetes.NewForConfig(two.Plane.Config)
	must(t, err)
	token, err := serviceaccount.Token(t.Context(), clients, namespace, account)
	must(t, err)
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster-2"] = &clientcmdapi.Cluster{Server: "https://" + m.remote.address, CertificateAuthorityData: two.Plane.Config.CAData}
	config.AuthInfos["cluster-2"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["cluster-2"] = &clientcmdapi.Context{Cluster: "cluster-2", AuthInfo: "cluster-2"}
	config.CurrentContext = "cluster-2"
	content, err := clientcmd.Write(*config)
	must(t, err)
	_, err = one.ServerSideApply(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret",
		"metadata":   map[string]any{"name": "istio-remote-secret-cluster-2", "namespace": namespace, "labels": map[string]any{"istio/multiCluster": "true"}},
		"stringData": map[string]any{"cluster-2": string(content)},
	}}, client.ForceOwnership)
	must(t, err)
}

var secret = regexp.MustCompile(`PRIVATE KEY|hvs\.|eyJ[A-Za-z0-9_-]{10}`)

// run runs the plugin and expects no secret in its output.
func (m *mesh) run(t *testing.T, arguments ...string) plugin.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := plugin.Run(ctx, "", append(arguments, "--context=cluster-1", "--kubeconfig", m.kubeconfig)...)
	if found := secret.FindString(r.Stdout + r.Stderr); found != "" {
		t.Errorf("a secret is printed, %.12s…: %s", found, arguments)
	}
	return r
}
