// SPDX-License-Identifier: Apache-2.0

// Package monitoring tests the chart's monitors, alerts and dashboard with what Prometheus itself scrapes of a real mesh, and
// draws the dashboard for the docs.
package monitoring

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/prometheus"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var must = check.Must

var update = flag.Bool("update", false, "draw docs/pictures/dashboard.svg")

var shared *cluster.Cluster

// values of the chart. istiod's CAs live for a minute here.
var values = helm.Values{
	"clusterName":    "cluster-1",
	"bundleEndpoint": helm.Values{"enabled": true, "secretName": "trust"},
	"prometheusRule": helm.Values{"caExpirySeconds": 1},
}

func TestMain(m *testing.M) { cluster.Main(m, &shared, nil) }

// mesh has an istiod in each of two namespaces, with their agents below the same root, and the webhook's two replicas.
type mesh struct {
	vault      *vaultserver.Server
	prometheus *prometheus.Server
	objects    *prometheus.Objects
	istiods    []*istiod
}

type istiod struct {
	*agents.Pod
	sidecar     *agents.Sidecar
	certificate *unstructured.Unstructured
}

// start starts all of the mesh and a Prometheus, and returns once that has scraped each program.
func start(t *testing.T) *mesh {
	t.Helper()
	ctx := t.Context()
	m := &mesh{}
	var err error
	installChart(t)
	must(t, agents.Install(ctx, shared))
	m.vault, err = vaultserver.Start(ctx, vaultserver.Options{Storage: true})
	must(t, err)
	t.Cleanup(func() { must(t, m.vault.Stop()) })
	_, err = m.vault.Guide(ctx, vaultserver.GuideOptions{
		Cluster: shared.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: "istio-system", Root: vaultserver.FastRoot,
	})
	must(t, err)
	must(t, m.vault.Client.Sys().TuneMountAllowNilWithContext(ctx, "pki", api.TuneMountConfigInput{DefaultLeaseTTL: new("60s"), MaxLeaseTTL: new("60s")}))

	m.objects, m.prometheus = startPrometheus(t)
	m.serveWebhook(t)
	m.addIstiod(t, "istio-system", "istiod-0", "10.244.0.7", nil)
	m.addIstiod(t, "istio-canary", "istiod-canary-0", "fd00:10:244::8", m.token(t))

	cluster.Eventually(t, "Prometheus scrapes two agents, two replicas of the webhook and the API server", func() error {
		if targets := m.prometheus.Targets(); len(targets) != 5 {
			return fmt.Errorf("it scrapes %v", targets)
		}
		return nil
	})
	m.eventually(t, "the bundle endpoint serves the root that istiod publishes", `min(istiod_agent_webhook_bundle_current)`, 1)
	for _, istiod := range m.istiods { // so that their CAs are of the same age
		must(t, agents.Renew(ctx, shared, istiod.certificate, "once"))
	}
	m.counted(t, "success", "RenewRequested", 1)
	return m
}

// startPrometheus starts a Prometheus with the chart's monitors, until the test ends.
func startPrometheus(t *testing.T) (*prometheus.Objects, *prometheus.Server) {
	t.Helper()
	objects, err := prometheus.FromChart(t.Context(), webhookserver.Release, values)
	must(t, err)
	kubeconfig, err := shared.Plane.Kubeconfig("prometheus", "system:masters")
	must(t, err)
	server, err := prometheus.Start(objects, kubeconfig, shared.Plane.Config)
	must(t, err)
	t.Cleanup(func() { must(t, server.Stop()) })
	return objects, server
}

// installChart installs the chart with a certificate for the bundle endpoint.
func installChart(t *testing.T) {
	t.Helper()
	directory := t.TempDir()
	certificate := testca.Root("bundle").Sign(x509.Certificate{
		DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotAfter: time.Now().AddDate(0, 0, 80),
	}, nil)
	for name, content := range map[string][]byte{"tls.crt": certificate.PEM(), "tls.key": certificate.KeyPEM()} {
		must(t, os.WriteFile(filepath.Join(directory, name), content, 0o600))
	}
	must(t, shared.Install(t.Context(), webhookserver.Options{
		Values: values, Replicas: 2,
		Configuration: map[string]any{"server": map[string]any{"bundleEndpoint": map[string]any{"directory": directory}}},
	}))
}

// serveWebhook creates what the Deployment and EndpointSlice controllers create for the chart's webhook.
func (m *mesh) serveWebhook(t *testing.T) {
	t.Helper()
	namespace := webhookserver.Release.Namespace
	deployment := shared.Stored(t, namespace, webhookserver.Name)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: webhookserver.Name, Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: webhookserver.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, port := range deployment.Spec.Template.Spec.Containers[0].Ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port.Name, Port: &port.ContainerPort, Protocol: &port.Protocol})
	}
	for i, replica := range shared.Webhook.Replicas {
		name, address := fmt.Sprintf("%s-%d", webhookserver.Name, i), fmt.Sprintf("10.244.1.%d", i+1)
		runPod(t, deployment, name, address)
		m.prometheus.Behind(net.JoinHostPort(address, "8080"), replica.MetricsAddress())
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name, Namespace: namespace},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	must(t, shared.Create(t.Context(), slice))
}

// runPod creates a Pod of a Deployment, as its controllers and a kubelet leave it, and reports it in the Deployment's status.
func runPod(t *testing.T, deployment *appsv1.Deployment, name, address string) {
	t.Helper()
	pod := cluster.Pod(deployment.Namespace, &deployment.Spec.Template)
	pod.GenerateName, pod.Name = "", name
	must(t, shared.Create(t.Context(), pod))
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, address, []corev1.PodIP{{IP: address}}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	must(t, shared.Status().Update(t.Context(), pod))
	current := shared.Stored(t, deployment.Namespace, deployment.Name)
	current.Status.Replicas++
	current.Status.ReadyReplicas++
	current.Status.AvailableReplicas++
	current.Status.ObservedGeneration = current.Generation
	must(t, shared.Status().Update(t.Context(), current))
}

// addIstiod has Istio's chart installed in a namespace, where the agent is injected, and starts the programs of its Pod.
func (m *mesh) addIstiod(t *testing.T, namespace, pod, address string, change func(vault, certOptions map[string]any)) {
	t.Helper()
	ctx := t.Context()
	deployment := install(t, namespace)
	runPod(t, deployment, pod, address)
	running, err := agents.NewPod(ctx, shared, namespace, pod, istiodserver.TmpfsDir(t), t.TempDir())
	must(t, err)
	certificate := running.Certificate(m.vault.Address, func(vault, certOptions map[string]any) {
		delete(vault, "csrPath")
		certOptions["ecKeyCurve"] = "P-256"
		if change != nil {
			change(vault, certOptions)
		}
	})
	_, err = shared.ServerSideApply(ctx, certificate)
	must(t, err)
	if output, err := running.Init(ctx); err != nil {
		t.Fatal(err, output)
	}
	server, err := istiodserver.Start(ctx, istiodserver.Options{
		Plane: shared.Plane, Namespace: namespace, CACerts: running.CACerts, Pod: pod,
		MeshConfig: "discoverySelectors: [{matchLabels: {kubernetes.io/metadata.name: " + namespace + "}}]",
		Env:        map[string]string{"CLUSTER_ID": "cluster-1", "PILOT_REMOTE_CLUSTER_TIMEOUT": "3s"},
	})
	must(t, err)
	t.Cleanup(func() { must(t, server.Stop()) })
	running.IstiodAddress, running.MonitoringAddress = server.SecureAddress, server.MonitoringAddress
	sidecar, err := running.Sidecar(ctx)
	must(t, err)
	t.Cleanup(func() {
		check.NoSecrets(t, sidecar.Output())
		must(t, sidecar.Stop(10*time.Second))
		if t.Failed() {
			t.Log(sidecar.Output())
		}
	})
	m.prometheus.Behind(net.JoinHostPort(address, "15085"), sidecar.Address())
	m.istiods = append(m.istiods, &istiod{running, sidecar, certificate})
}

// install applies istiod's Deployment of Istio's chart in a labelled namespace.
func install(t *testing.T, namespace string) *appsv1.Deployment {
	t.Helper()
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	must(t, serviceaccount.Ensure(t.Context(), clients, namespace, agents.ServiceAccount))
	must(t, shared.SetInjection(t.Context(), namespace, true))
	return shared.MustApply(t, cluster.Istiod(t, namespace))
}

// token has the agent use a token of Vault's in a Secret, which lives for an hour.
func (m *mesh) token(t *testing.T) func(vault, certOptions map[string]any) {
	t.Helper()
	ctx := t.Context()
	made, err := m.vault.Client.Auth().Token().CreateWithContext(ctx, &api.TokenCreateRequest{
		Policies: []string{vaultserver.Role}, Period: "1h", NoParent: true,
	})
	must(t, err)
	clients, err := kubernetes.NewForConfig(shared.Plane.Config)
	must(t, err)
	const namespace, name = "istio-canary", "vault-token"
	must(t, serviceaccount.EnsureNamespace(ctx, clients, namespace))
	must(t, shared.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, StringData: map[string]string{"token": made.Auth.ClientToken},
	}))
	allowSecret(t, namespace, name)
	return func(vault, _ map[string]any) {
		delete(vault, "kubernetesAuth")
		vault["tokenSecretRef"] = map[string]any{"name": name}
	}
}

// allowSecret lets istiod's service account read a Secret.
func allowSecret(t *testing.T, namespace, name string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name, Namespace: namespace}
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{name}, Verbs: []string{"get"}},
	}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: agents.ServiceAccount, Namespace: namespace}},
	}))
}

// joinUnreachable creates a remote secret for a cluster that does not answer.
func joinUnreachable(ctx context.Context) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster-2"] = &clientcmdapi.Cluster{Server: "https://127.0.0.1:1", CertificateAuthorityData: shared.Plane.Config.CAData}
	config.AuthInfos["cluster-2"] = &clientcmdapi.AuthInfo{Token: "none"}
	config.Contexts["cluster-2"] = &clientcmdapi.Context{Cluster: "cluster-2", AuthInfo: "cluster-2"}
	config.CurrentContext = "cluster-2"
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return shared.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "istio-remote-secret-cluster-2", Namespace: "istio-system", Labels: map[string]string{"istio/multiCluster": "true"}},
		StringData: map[string]string{"cluster-2": string(content)},
	})
}

// refused applies a Deployment in which the webhook finds no istiod.
func refused(t *testing.T, namespace string) {
	t.Helper()
	deployment := cluster.Istiod(t, namespace)
	deployment.SetName("istiod-without")
	containers, _, err := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	must(t, err)
	containers[0].(map[string]any)["name"] = "other"
	containers[0].(map[string]any)["volumeMounts"] = []any{}
	must(t, unstructured.SetNestedSlice(deployment.Object, containers, "spec", "template", "spec", "containers"))
	if _, err := shared.ServerSideApply(t.Context(), deployment); err == nil {
		t.Error("the webhook does not refuse a Deployment without istiod")
	}
}

// counted waits until each agent has so many renewals with an outcome and a reason.
func (m *mesh) counted(t *testing.T, outcome, reason string, least float64) {
	t.Helper()
	for _, istiod := range m.istiods {
		expression := fmt.Sprintf(`sum(istiod_agent_renewals_total{namespace=%q,outcome=%q,reason=%q})`, istiod.Namespace, outcome, reason)
		m.eventually(t, fmt.Sprintf("%s/%s counts %v times %s: %s", istiod.Namespace, istiod.Name, least, outcome, reason), expression, least)
	}
}

// grows waits until Prometheus has seen each agent count a further attempt with an outcome: the first alone, or the first two
// between two scrapes, are no growth for increase().
func (m *mesh) grows(t *testing.T, outcome, reason string) {
	t.Helper()
	for _, istiod := range m.istiods {
		expression := fmt.Sprintf(`count(increase(istiod_agent_renewals_total{namespace=%q,outcome=%q,reason=%q}[10m]) > 0)`, istiod.Namespace, outcome, reason)
		m.eventually(t, fmt.Sprintf("%s/%s counts more and more times %s: %s", istiod.Namespace, istiod.Name, outcome, reason), expression, 1)
	}
}

// eventually waits until the expression is at least so much, up to the two minutes that the life of a CA and a reading of
// istiod's remote clusters take.
func (m *mesh) eventually(t *testing.T, what, expression string, least float64) {
	t.Helper()
	cluster.Within(t, 2*time.Minute, what, func() error {
		found, err := m.prometheus.Query(t.Context(), expression, time.Now())
		if err == nil && (len(found) != 1 || found[0].F < least) {
			err = errors.New(found.String())
		}
		return err
	})
}
