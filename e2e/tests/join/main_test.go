// SPDX-License-Identifier: Apache-2.0

// Package join tests `kubectl istiod-agent join` and `leave` on two API servers, each with an istiod that has the rights of
// Istio's chart.
package join

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/kubelet"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

const (
	namespace = "istio-system"
	account   = "istiod"
	switchOff = "PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER"
)

var (
	one, two *cluster.Cluster
	// servers are the API servers' flags, for their signing keys.
	servers [2]*envtest.APIServer
)

func TestMain(m *testing.M) {
	cluster.MainOfSeveral(m,
		cluster.Spec{Into: &one, Configure: func(s *envtest.APIServer) { servers[0] = s }},
		cluster.Spec{Into: &two, Configure: func(s *envtest.APIServer) { servers[1] = s }})
}

// side is a cluster and its istiod.
type side struct {
	*cluster.Cluster
	name    string // of the context and the cluster
	clients kubernetes.Interface
	node    *kubelet.Kubelet
	istiod  *istiodserver.Server
	// options start a further replica, of which there were replicas.
	options  istiodserver.Options
	replicas int
}

// newRoot returns a root that clusters can share.
func newRoot() *testca.Certificate { return testca.SelfSign(template(), nil) }

func template() x509.Certificate {
	template := testca.Authority("my-org")
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 1, 0)
	return template
}

// newSide creates istiod's objects in a cluster, and starts istiod with an intermediate CA below the root. Everything is removed
// after the test.
func newSide(t *testing.T, c *cluster.Cluster, name string, root *testca.Certificate, env map[string]string) *side {
	t.Helper()
	dir := istiodserver.TmpfsDir(t)
	writeCA(t, dir, root)
	return newSideWith(t, c, name, dir, env)
}

// newSideWith is newSide with the folder of the CA.
func newSideWith(t *testing.T, c *cluster.Cluster, name, dir string, env map[string]string) *side {
	t.Helper()
	ctx := t.Context()
	s := &side{Cluster: c, name: name}
	var err error
	s.clients, err = kubernetes.NewForConfig(c.Plane.Config)
	must(t, err)
	must(t, serviceaccount.EnsureNamespace(ctx, s.clients, namespace))
	variables := map[string]string{"CLUSTER_ID": name}
	maps.Copy(variables, env)
	s.deploy(t, variables)
	t.Cleanup(func() { s.leave(t) })
	s.node, err = kubelet.Start(ctx, s, "node-"+name)
	must(t, err)
	t.Cleanup(func() {
		must(t, s.node.Stop())
		must(t, s.Delete(context.WithoutCancel(ctx), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.node.Node}}))
	})
	root, err := os.ReadFile(filepath.Join(dir, "root-cert.pem"))
	must(t, err)
	user, groups := controlplane.ServiceAccount(namespace, account)
	kubeconfig, err := c.Plane.Kubeconfig(user, groups...)
	must(t, err)
	s.options = istiodserver.Options{Plane: c.Plane, CACerts: dir, Kubeconfig: kubeconfig, Env: variables}
	s.grant(t)
	s.replica(t)
	cluster.Eventually(t, "istiod has published its root", func() error {
		published, err := s.istiod.PublishedRoot(ctx, namespace)
		if err == nil && string(published) != string(root) {
			err = errors.New("another root is published")
		}
		return err
	})
	return s
}

// leave removes what a failed test has left.
func (s *side) leave(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	left := client.HasLabels{remotes.PartnerLabel}
	must(t, s.DeleteAllOf(ctx, &corev1.Secret{}, client.InNamespace(namespace), left))
	must(t, s.DeleteAllOf(ctx, &corev1.ServiceAccount{}, client.InNamespace(namespace), left))
	must(t, s.DeleteAllOf(ctx, &rbacv1.ClusterRole{}, left))
	must(t, s.DeleteAllOf(ctx, &rbacv1.ClusterRoleBinding{}, left))
}

// deploy creates istiod's Deployment as Istio's chart renders it, with variables.
func (s *side) deploy(t *testing.T, variables map[string]string) {
	t.Helper()
	ctx := t.Context()
	values := helm.Values{}
	for key, value := range variables {
		values[key] = value
	}
	clusterName := variables["CLUSTER_ID"]
	delete(values, "CLUSTER_ID")
	all := istio.Values(namespace, "1.31.0", helm.Values{"env": values})
	all["global"].(helm.Values)["multiCluster"] = helm.Values{"clusterName": clusterName}
	deployment, err := istio.Deployment(ctx, namespace, all)
	must(t, err)
	_, err = s.ServerSideApply(ctx, deployment, client.ForceOwnership)
	must(t, err)
	t.Cleanup(func() { must(t, client.IgnoreNotFound(s.Delete(context.WithoutCancel(ctx), deployment))) })
}

// grant gives istiod the rights of Istio's charts, its reader account included.
func (s *side) grant(t *testing.T) {
	t.Helper()
	objects, err := istio.Manifests(t.Context(), namespace, istio.Values(namespace, "1.31.0"))
	must(t, err)
	for _, object := range objects {
		switch object.GetKind() {
		case "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount":
			must(t, istio.ApplyAsIstioctl(t.Context(), s, namespace, object))
		}
	}
}

// replica starts a replica of istiod in place of the last one, which stops once the new one is ready.
func (s *side) replica(t *testing.T) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	last := s.istiod
	name := fmt.Sprintf("istiod-%d", s.replicas)
	s.options.Pod = name
	istiod, err := istiodserver.Start(ctx, s.options)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.name, name, process.LastLines(istiod.Process().Output()))
		}
		must(t, istiod.Stop())
	})
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": "istiod", "istio.io/rev": "default"}},
		Spec:       corev1.PodSpec{NodeName: s.node.Node, ServiceAccountName: account, Containers: []corev1.Container{{Name: "discovery", Image: "registry.example/pilot"}}},
	}
	must(t, s.Create(ctx, object))
	object.Status.Phase = corev1.PodRunning
	must(t, s.Status().Update(ctx, object))
	remove := func() { must(t, client.IgnoreNotFound(s.Delete(ctx, object, client.GracePeriodSeconds(0)))) }
	t.Cleanup(remove)
	s.node.Forward(namespace, name, 15014, istiod.MonitoringAddress)
	if last != nil {
		last := fmt.Sprintf("istiod-%d", s.replicas-1)
		must(t, client.IgnoreNotFound(s.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: last}}, client.GracePeriodSeconds(0))))
	}
	if last != nil {
		must(t, last.Stop())
	}
	s.istiod = istiod
	s.replicas++
}

func writeCA(t *testing.T, dir string, root *testca.Certificate) {
	t.Helper()
	ca := template()
	ca.Subject.CommonName = "intermediate"
	intermediate := root.Sign(ca, nil)
	for name, content := range map[string][]byte{
		"ca-key.pem": intermediate.KeyPEM(), "ca-cert.pem": intermediate.PEM(), "cert-chain.pem": intermediate.PEM(), "root-cert.pem": root.PEM(),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
}

// service creates a Service with an endpoint.
func (s *side) service(t *testing.T, name, address string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "grpc", Port: 80}}},
	}
	must(t, s.Create(ctx, service))
	t.Cleanup(func() { must(t, s.Delete(ctx, service)) })
	s.endpoint(t, name, address)
}

// endpoint adds an endpoint of a Service with a Pod behind it.
func (s *side) endpoint(t *testing.T, service, address string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	name := service + "-" + strings.ReplaceAll(address, ".", "-")
	backend := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": service}},
		Spec:       corev1.PodSpec{NodeName: s.node.Node, ServiceAccountName: "default", Containers: []corev1.Container{{Name: "server", Image: "registry.example/server"}}},
	}
	must(t, serviceaccount.Ensure(ctx, s.clients, "default", "default"))
	must(t, s.Create(ctx, backend))
	t.Cleanup(func() { must(t, s.Delete(ctx, backend, client.GracePeriodSeconds(0))) })
	backend.Status.Phase, backend.Status.PodIP, backend.Status.PodIPs = corev1.PodRunning, address, []corev1.PodIP{{IP: address}}
	backend.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	must(t, s.Status().Update(ctx, backend))
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"kubernetes.io/service-name": service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: name},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: new("grpc"), Port: new(int32(80))}},
	}
	must(t, s.Create(ctx, slice))
	t.Cleanup(func() { must(t, client.IgnoreNotFound(s.Delete(ctx, slice))) })
}

// debug reads one of istiod's debug pages.
func (s *side) debug(ctx context.Context, page string) (string, error) {
	return process.Get(ctx, "http://"+s.istiod.MonitoringAddress+"/debug/"+page)
}

// serves returns an error unless istiod has an endpoint, of another cluster, for its clients.
func (s *side) serves(ctx context.Context, of, service, address string) error {
	page, err := s.debug(ctx, "endpointShardz")
	if err != nil {
		return err
	}
	var shards map[string]map[string]struct{ Shards map[string]json.RawMessage }
	if err := json.Unmarshal([]byte(page), &shards); err != nil {
		return fmt.Errorf("%w: %.200s", err, page)
	}
	for _, found := range shards[service+".default.svc.cluster.local"] {
		for shard, endpoints := range found.Shards {
			if strings.HasSuffix(shard, "/"+of) && strings.Contains(string(endpoints), `"`+address+`"`) {
				return nil
			}
		}
	}
	return fmt.Errorf("istiod of %s has no endpoint %s of %s in %s: %.2000s", s.name, address, service, of, page)
}

// wantServed waits until istiod serves an endpoint.
func (s *side) wantServed(t *testing.T, of, service, address string) {
	t.Helper()
	cluster.Eventually(t, "istiod of "+s.name+" serves the endpoint "+address, func() error { return s.serves(t.Context(), of, service, address) })
}

// contexts writes a kubeconfig with an administrator's context of each side, and one of a cluster that does not answer.
func contexts(t *testing.T, sides map[string]*cluster.Cluster) (file string) {
	t.Helper()
	files := map[string]string{}
	for name, c := range sides {
		admin, err := c.Plane.Kubeconfig("admin", "system:masters")
		must(t, err)
		files[name] = admin
	}
	dir := t.TempDir()
	files["away"] = filepath.Join(dir, "away")
	must(t, plugin.Unreachable(files["away"]))
	file = filepath.Join(dir, "config")
	must(t, plugin.Kubeconfig(file, files))
	return file
}

// run runs the plugin and expects no secret in its output.
func run(t *testing.T, kubeconfig string, arguments ...string) plugin.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r := plugin.Run(ctx, "", append(arguments, "--kubeconfig", kubeconfig)...)
	check.NoSecrets(t, r.Stdout+r.Stderr)
	if testing.Verbose() {
		t.Logf("kubectl istiod-agent %s\n%s", strings.Join(arguments, " "), r)
	}
	return r
}

// both are the arguments for both contexts, whose API servers are on loopback, where the istiods of this test reach them. No Pod
// runs here: joinBoth starts none.
func both(command ...string) []string {
	return append(command, "--context=cluster-1", "--context=cluster-2")
}

func joinBoth(more ...string) []string { return probeBoth(append(more, "--probe=false")...) }

// probeBoth is joinBoth that starts Pods first.
func probeBoth(more ...string) []string {
	return append(append(both("join"), "--api-server=cluster-1="+one.Plane.Config.Host, "--api-server=cluster-2="+two.Plane.Config.Host), more...)
}

// secret reads a remote secret.
func (s *side) secret(t *testing.T, name string) *corev1.Secret {
	t.Helper()
	stored := &corev1.Secret{}
	must(t, s.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, stored))
	return stored
}
