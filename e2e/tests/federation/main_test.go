// SPDX-License-Identifier: Apache-2.0

// Package federation tests what is reported of a mesh of two clusters: an istiod with its agent in the first one reads the API
// server of the second one by a remote secret.
package federation

import (
	"context"
	"regexp"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/meshcluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

const (
	namespace = meshcluster.Namespace
	reader    = "istio-reader"
)

var one, two *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.MainOfSeveral(m, cluster.Spec{Into: &one, Options: &webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}},
		cluster.Spec{Into: &two})
}

// mesh is the first cluster's, with its programs.
type mesh struct {
	*meshcluster.Cluster
	kubeconfig string
	// remote is the second cluster's API server, as istiod reaches it.
	remote *relay
}

// start applies the guide's VirtualMesh and starts an istiod with its agent.
func start(t *testing.T) *mesh {
	t.Helper()
	m := &mesh{
		Cluster:    meshcluster.New(t, one, meshcluster.Options{Name: "cluster-1", Clusters: meshcluster.Names, Federate: true}),
		kubeconfig: meshcluster.Kubeconfig(t, map[string]*cluster.Cluster{"cluster-1": one}, nil),
		remote:     startRelay(t, two.Plane.Config.Host),
	}
	// A remote cluster that cannot be read holds up istiod's start for that long; 30 s by default.
	m.Start(t, istiodserver.Options{Env: map[string]string{"PILOT_REMOTE_CLUSTER_TIMEOUT": "3s"}})
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
