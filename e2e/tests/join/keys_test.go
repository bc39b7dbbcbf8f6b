// SPDX-License-Identifier: Apache-2.0

package join

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/serviceaccount"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// agentCA returns a folder with the CA that a real agent gets from a Vault below the root, as an injected istiod's init container.
func agentCA(t *testing.T, c *cluster.Cluster, root func() (*vaultserver.Root, error)) (dir string, of *vaultserver.Root) {
	t.Helper()
	ctx := t.Context()
	clients, err := kubernetes.NewForConfig(c.Plane.Config)
	must(t, err)
	must(t, serviceaccount.EnsureNamespace(ctx, clients, namespace))
	vault, err := vaultserver.Start(ctx, vaultserver.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, vault.Stop()) })
	of, err = vault.Guide(ctx, vaultserver.GuideOptions{Cluster: c.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace, Root: root})
	must(t, err)
	must(t, agents.Install(ctx, c))
	dir = istiodserver.TmpfsDir(t)
	pod, err := agents.NewPod(ctx, c, namespace, "agent", dir, t.TempDir())
	must(t, err)
	certificate := pod.Certificate(vault.Address, func(_, options map[string]any) { options["ecKeyCurve"] = "P-256" })
	must(t, c.Create(ctx, certificate))
	_, err = pod.Init(ctx)
	must(t, err)
	must(t, c.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "agent"}}))
	return dir, of
}

// asIstiod connects as whoever holds the rights of a cluster's istiod.
func (s *side) asIstiod(t *testing.T) kubernetes.Interface {
	t.Helper()
	user, groups := controlplane.ServiceAccount(namespace, account)
	config := rest.CopyConfig(s.Plane.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	clients, err := kubernetes.NewForConfig(config)
	must(t, err)
	return clients
}

// through connects to another cluster by a remote secret that a client can read.
func through(t *testing.T, clients kubernetes.Interface, secret string) kubernetes.Interface {
	t.Helper()
	stored, err := clients.CoreV1().Secrets(namespace).Get(t.Context(), secret, metav1.GetOptions{})
	must(t, err)
	config, err := clientcmd.RESTConfigFromKubeConfig(stored.Data["cluster-2"])
	must(t, err)
	other, err := kubernetes.NewForConfig(config)
	must(t, err)
	return other
}

// keysIn returns the Secrets of a cluster that hold a private key.
func keysIn(t *testing.T, clients kubernetes.Interface) (names []string) {
	t.Helper()
	all, err := clients.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for i := range all.Items {
		for _, value := range all.Items[i].Data {
			if strings.Contains(string(value), "PRIVATE KEY") {
				names = append(names, all.Items[i].Namespace+"/"+all.Items[i].Name)
			}
		}
	}
	return names
}

// With cacerts in a Secret and Istio's own reader account, whoever holds the rights of one istiod reads the CA keys of the other
// clusters. With the agent and join, no Secret holds one, and none can be read.
func TestKeysOfOtherClusters(t *testing.T) {
	ctx := t.Context()
	firstCA, vaultRoot := agentCA(t, one, vaultserver.FastRoot)
	secondCA, _ := agentCA(t, two, func() (*vaultserver.Root, error) { return vaultRoot, nil })
	first, second := newSideWith(t, one, "cluster-1", firstCA, nil), newSideWith(t, two, "cluster-2", secondCA, nil)
	first.service(t, "local", "10.1.0.1")
	second.service(t, "remote", "10.2.0.1")
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})

	// Istio's own way.
	key, err := os.ReadFile(filepath.Join(secondCA, "ca-key.pem"))
	must(t, err)
	cacerts := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "cacerts", Namespace: namespace}, Data: map[string][]byte{"ca-key.pem": key}}
	must(t, two.Create(ctx, cacerts))
	must(t, serviceaccount.Ensure(ctx, second.clients, namespace, "istio-reader-service-account"))
	token, err := serviceaccount.Token(ctx, second.clients, namespace, "istio-reader-service-account")
	must(t, err)
	use := remotes.Use{Reader: "cluster-1", Target: "cluster-2", ReaderNamespace: namespace, TargetNamespace: namespace}
	ofIstio, err := use.Secret("istio-remote-secret-cluster-2", remotes.Address{Server: two.Plane.Config.Host, CA: two.Plane.Config.CAData}, token, time.Now())
	must(t, err)
	delete(ofIstio.Labels, remotes.PartnerLabel)
	must(t, one.Create(ctx, ofIstio))
	read, err := through(t, first.asIstiod(t), ofIstio.Name).CoreV1().Secrets(namespace).Get(ctx, "cacerts", metav1.GetOptions{})
	must(t, err)
	if string(read.Data["ca-key.pem"]) != string(key) {
		t.Error("the key of cluster-2 is another one: this half of the test shows nothing")
	}
	run(t, config, "check", "--context=cluster-1").Wants(t, 1, "remote secret istio-system/istio-remote-secret-cluster-2  — uses account istio-system/istio-reader-service-account of cluster cluster-2, which may read every Secret there")

	// The agent's: the key is in memory, and join replaces the remote secret.
	must(t, two.Delete(ctx, cacerts))
	run(t, config, joinBoth("--dry-run")...).Wants(t, 0, "cluster-1: Secret istio-system/istio-remote-secret-cluster-2 for cluster-2 would be replaced: it uses account istio-system/istio-reader-service-account, which may read every Secret of cluster-2")
	served := func() error { return first.serves(ctx, "cluster-2", "remote", "10.2.0.1") }
	first.rollout(t, func() plugin.Result { return run(t, config, joinBoth()...) }, served).Wants(t, 0, "cluster-1: Secret istio-system/istio-remote-secret-cluster-2 for cluster-2 replaced")
	other := through(t, first.asIstiod(t), ofIstio.Name)
	if _, err := other.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("listing the Secrets of cluster-2: %v", err)
	}
	for _, namespace := range []string{namespace, "default", "kube-system"} {
		if _, err := other.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("listing the Secrets of cluster-2 in %s: %v", namespace, err)
		}
		if _, err := other.CoreV1().Secrets(namespace).Get(ctx, "cacerts", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("reading Secret cacerts of cluster-2: %v", err)
		}
	}
	for _, s := range []*side{first, second} {
		if names := keysIn(t, s.clients); len(names) > 0 {
			t.Errorf("private keys in Secrets of %s: %v", s.name, names)
		}
	}
	if reads, err := remotes.ReadsSecrets(ctx, two, types.NamespacedName{Namespace: namespace, Name: "istiod-agent-remote-cluster-1"}); err != nil || reads {
		t.Errorf("the account reads Secrets: %t, %v", reads, err)
	}
	run(t, config, both("leave")...).Wants(t, 0)
}
