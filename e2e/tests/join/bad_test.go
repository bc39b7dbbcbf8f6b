// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
)

// objects returns what join leaves in a cluster, by kind and name.
func (s *side) objects(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	found := ""
	for _, list := range []client.ObjectList{&corev1.SecretList{}, &corev1.ServiceAccountList{}, &rbacv1.ClusterRoleList{}, &rbacv1.ClusterRoleBindingList{}} {
		must(t, s.List(ctx, list, client.HasLabels{remotes.PartnerLabel}))
		content, err := json.Marshal(list)
		must(t, err)
		var items struct {
			Items []struct{ Metadata metav1.ObjectMeta }
		}
		must(t, json.Unmarshal(content, &items))
		for _, item := range items.Items {
			found += item.Metadata.Name + " "
		}
	}
	return found
}

// Each of these is named with the next command, and changes nothing.
func TestBadInput(t *testing.T) {
	root := newRoot()
	first, second := newSide(t, one, "cluster-1", root, nil), newSide(t, two, "cluster-2", root, nil)
	clusters := map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two, "again": one}
	config := contexts(t, clusters)
	nothing := func(t *testing.T) {
		t.Helper()
		if left := first.objects(t) + second.objects(t); left != "" {
			t.Errorf("there is %s", left)
		}
	}
	t.Run("one context", func(t *testing.T) {
		run(t, config, "join", "--context=cluster-1").Wants(t, 2, "--context: expected at least two")
	})
	t.Run("flags", func(t *testing.T) {
		run(t, config, joinBoth("--network=elsewhere=n1")...).Wants(t, 2, `--network "elsewhere=n1": "elsewhere" is not one of the contexts in --context`)
		run(t, config, both("join", "--api-server=cluster-1=http://192.0.2.1")...).Wants(t, 2, "--api-server of context cluster-1: expected https://HOST:PORT")
		run(t, config, joinBoth("--token-ttl=1m")...).Wants(t, 2, "--token-ttl: expected 10m0s to ")
		run(t, config, append(both("leave"), "Not_A_Cluster")...).Wants(t, 2, `"Not_A_Cluster" is not a valid cluster name`)
	})
	t.Run("a context that cannot be reached", func(t *testing.T) {
		run(t, config, joinBoth("--context=away")...).Wants(t, 2, "no context was changed, because not all of them can be read", "away: ", "check the cluster's address and your login: kubectl --context=away version")
		run(t, config, joinBoth("--context=unknown")...).Wants(t, 2, `the kubeconfig has no context "unknown"; kubectl config get-contexts`)
		nothing(t)
	})
	t.Run("two contexts of one cluster", func(t *testing.T) {
		run(t, config, joinBoth("--context=again")...).Wants(t, 1, "again: is the same cluster as cluster-1 (the UID of namespace kube-system is equal); leave one out")
		nothing(t)
	})
	t.Run("a network that does not route", func(t *testing.T) {
		for _, s := range []*side{first, second} {
			node := &corev1.Node{}
			must(t, s.Get(t.Context(), client.ObjectKey{Name: s.node.Node}, node))
			node.Spec.PodCIDR, node.Spec.PodCIDRs = "10.244.0.0/24", []string{"10.244.0.0/24"}
			must(t, s.Update(t.Context(), node))
		}
		run(t, config, joinBoth()...).Wants(t, 1, "cluster-2: Pods have addresses in 10.244.0.0/24, and Pods of cluster-1 in 10.244.0.0/24: no network routes them between the clusters; name the network of each context by --network CONTEXT=NAME")
		run(t, config, joinBoth("--network=cluster-1=n1")...).Wants(t, 1, "cluster-2: --network is missing", "cluster-1: network n1 has no east-west gateway")
		nothing(t)
	})
	t.Run("networks with gateways", func(t *testing.T) {
		networks := []string{"--network=cluster-1=n1", "--network=cluster-2=n2"}
		for _, s := range []*side{first, second} {
			s.gateway(t, strings.Replace(s.name, "cluster-", "n", 1))
		}
		local, remote := first, second
		local.service(t, "here", "10.1.0.1")
		remote.service(t, "there", "10.2.0.1")
		run(t, config, joinBoth(networks...)...).Wants(t, 0, "cluster-1: namespace istio-system labelled with network n1", "cluster-2: Gateway istio-system/cross-network-gateway created")
		cluster.Eventually(t, "istiod knows the other network's gateway", func() error {
			page, err := first.debug(t.Context(), "networkz")
			if err == nil && !strings.Contains(page, "192.0.2.22") {
				err = errNotYet
			}
			return err
		})
		run(t, config, joinBoth("--network=cluster-1=n1", "--network=cluster-2=n3")...).Wants(t, 1, "cluster-2: namespace istio-system has network n2, not n3; join does not change a network")
		run(t, config, both("leave")...).Wants(t, 0, "cluster-1: Gateway istio-system/cross-network-gateway removed")
		nothing(t)
	})
	t.Run("an istiod that would crash", func(t *testing.T) {
		first.deploy(t, map[string]string{"CLUSTER_ID": "cluster-1", switchOff: "false"})
		run(t, config, joinBoth()...).Wants(t, 1, "cluster-1: istiod istio-system/istiod has PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER=false, with which Istio 1.31 crashes", "set env -n istio-system deployment/istiod PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER-")
		nothing(t)
	})
	t.Run("Istio's default name", func(t *testing.T) {
		first.deploy(t, map[string]string{"CLUSTER_ID": ""})
		run(t, config, joinBoth()...).Wants(t, 1, `cluster-1: its istiod calls the cluster "Kubernetes", but names of Secrets and labels need lower-case letters`, "set another global.multiCluster.clusterName")
		nothing(t)
	})
}

// gateway creates the Service of an east-west gateway with an address.
func (s *side) gateway(t *testing.T, network string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "istio-eastwestgateway", Namespace: namespace, Labels: map[string]string{"istio": "eastwestgateway", "topology.istio.io/network": network}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"istio": "eastwestgateway"}, Ports: []corev1.ServicePort{{Name: "status-port", Port: 15021}, {Name: "tls", Port: 15443}}},
	}
	must(t, s.Create(ctx, service))
	service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.2" + network[1:]}}
	must(t, s.Status().Update(ctx, service))
	t.Cleanup(func() {
		must(t, s.Delete(ctx, service))
		must(t, s.Patch(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"topology.istio.io/network":null}}}`))))
	})
}

// Clusters of different roots are not joined.
func TestOtherRoot(t *testing.T) {
	first, second := newSide(t, one, "cluster-1", newRoot(), nil), newSide(t, two, "cluster-2", newRoot(), nil)
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})
	run(t, config, joinBoth()...).Wants(t, 1, "no context was changed", "the roots of trust differ: cluster-1 trusts ", "; cluster-2 trusts ", "change to one root by kubectl istiod-agent rotate-root")
	if left := first.objects(t) + second.objects(t); left != "" {
		t.Errorf("there is %s", left)
	}
}

// A join that fails midway takes back what it made, or names it where it cannot.
func TestTakenBack(t *testing.T) {
	root := newRoot()
	first, second := newSide(t, one, "cluster-1", root, nil), newSide(t, two, "cluster-2", root, nil)
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	rules := func(deletes bool) []rbacv1.PolicyRule {
		verbs := all
		if !deletes {
			verbs = all[:6]
		}
		return append(remotes.Rules([]string{"istio"}), []rbacv1.PolicyRule{
			{APIGroups: []string{"", "apps", "networking.istio.io"}, Resources: []string{"namespaces", "nodes", "pods", "services", "secrets", "configmaps", "deployments", "gateways"}, Verbs: []string{"get", "list"}},
			{APIGroups: []string{""}, Resources: []string{"secrets", "serviceaccounts"}, Verbs: verbs},
			{APIGroups: []string{"rbac.authorization.k8s.io"}, Resources: []string{"clusterroles", "clusterrolebindings"}, Verbs: verbs},
			{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews"}, Verbs: []string{"create"}},
		}...)
	}
	ctx := context.WithoutCancel(t.Context())
	for _, user := range []string{"maker", "stayer"} { // neither may request tokens
		must(t, two.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: rules(user == "maker")}))
		must(t, two.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
		}))
		t.Cleanup(func() {
			must(t, two.Delete(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}}))
			must(t, two.Delete(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}}))
		})
	}
	admin, err := one.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	join := func(user string) plugin.Result {
		limited, err := two.Plane.Kubeconfig(user)
		must(t, err)
		config := filepath.Join(t.TempDir(), "config")
		must(t, plugin.Kubeconfig(config, map[string]string{"cluster-1": admin, "cluster-2": limited}))
		return run(t, config, joinBoth()...)
	}
	join("maker").Wants(t, 2, "cluster-2: requesting a token of account istio-system/istiod-agent-remote-cluster-1", "get the right to create serviceaccounts/token", "all changes were undone")
	if left := first.objects(t) + second.objects(t); left != "" {
		t.Errorf("there is %s", left)
	}
	join("stayer").Wants(t, 2, "some changes could not be undone; undo them with:",
		"kubectl --context=cluster-2 delete serviceaccounts istiod-agent-remote-cluster-1 -n istio-system",
		"kubectl --context=cluster-2 delete clusterroles.rbac.authorization.k8s.io istiod-agent-remote:istio-system:cluster-1")
	if left := first.objects(t); left != "" {
		t.Errorf("cluster-1 has %s", left)
	}
	run(t, contexts(t, map[string]*cluster.Cluster{"cluster-2": two}), "leave", "cluster-1", "--context=cluster-2").Wants(t, 0, "cluster-2: ServiceAccount istio-system/istiod-agent-remote-cluster-1 removed")
	if left := second.objects(t); left != "" {
		t.Errorf("cluster-2 has %s", left)
	}
}

// An expired token is named and renewed; a remote secret that join does not understand stays, and is named.
func TestExpiredToken(t *testing.T) {
	root := newRoot()
	first, second := newSide(t, one, "cluster-1", root, nil), newSide(t, two, "cluster-2", root, nil)
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})
	second.service(t, "remote", "10.2.0.1")
	first.service(t, "local", "10.1.0.1")
	run(t, config, joinBoth("--token-ttl=10m")...).Wants(t, 0, "cluster-1: remote secret for cluster-2 created")
	secret := first.secret(t, "istio-remote-secret-cluster-2")
	parsed := remotes.Parse(secret)
	if left := time.Until(parsed.Expires); left > 10*time.Minute || parsed.Unclear != "" || secret.Annotations[remotes.ExpiresAnnotation] != parsed.Expires.UTC().Format(time.RFC3339) {
		t.Errorf("the token expires in %s; %s, %v", left, parsed.Unclear, secret.Annotations)
	}

	expired := sign(t, second, parsed, time.Now().Add(-time.Minute))
	setToken(t, secret, expired)
	must(t, first.Update(t.Context(), secret))
	run(t, config, joinBoth("--dry-run")...).Wants(t, 0, "cluster-1: token for cluster-2 would be renewed: its token has expired", "would be done: istiod restarted")
	served := func() error { return first.serves(t.Context(), "cluster-2", "remote", "10.2.0.1") }
	first.rollout(t, func() plugin.Result { return run(t, config, joinBoth()...) }, served).Wants(t, 0, "cluster-1: token for cluster-2 renewed: its token has expired", "cluster-2: remote secret for cluster-1 kept")
	second.endpoint(t, "remote", "10.2.0.2")
	first.wantServed(t, "cluster-2", "remote", "10.2.0.2")

	secret = first.secret(t, "istio-remote-secret-cluster-2")
	secret.Data["cluster-3"] = secret.Data["cluster-2"]
	must(t, first.Update(t.Context(), secret))
	run(t, config, joinBoth("--renew")...).Wants(t, 1, "cluster-1: Secret istio-system/istio-remote-secret-cluster-2 is not changed", "it holds the kubeconfigs of 2 clusters", "kubectl --context=cluster-1 delete secret -n istio-system istio-remote-secret-cluster-2")
	run(t, config, both("leave")...).Wants(t, 0)
}

// sign makes a token as the API server does, of any lifetime.
func sign(t *testing.T, s *side, of remotes.Secret, expires time.Time) string {
	t.Helper()
	server := servers[0]
	if s.Cluster == two {
		server = servers[1]
	}
	content, err := os.ReadFile(filepath.Join(server.CertDir, "sa-signer.key"))
	must(t, err)
	block, _ := pem.Decode(content)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	key := parsed.(crypto.Signer)
	encode := func(value any) string {
		text, err := json.Marshal(value)
		must(t, err)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	text := encode(map[string]any{"alg": "RS256"}) + "." + encode(map[string]any{
		"iss": "https://kubernetes.default.svc.cluster.local", "aud": []string{"https://kubernetes.default.svc.cluster.local"},
		"sub": "system:serviceaccount:" + of.Account.Namespace + ":" + of.Account.Name,
		"iat": expires.Add(-time.Hour).Unix(), "nbf": expires.Add(-time.Hour).Unix(), "exp": expires.Unix(),
		"kubernetes.io": map[string]any{"namespace": of.Account.Namespace, "serviceaccount": map[string]any{"name": of.Account.Name, "uid": of.AccountUID}},
	})
	digest := sha256.Sum256([]byte(text))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// setToken puts another token into a remote secret.
func setToken(t *testing.T, secret *corev1.Secret, token string) {
	t.Helper()
	for name, kubeconfig := range secret.Data {
		config, err := clientcmd.Load(kubeconfig)
		must(t, err)
		for _, user := range config.AuthInfos {
			user.Token = token
		}
		secret.Data[name], err = clientcmd.Write(*config)
		must(t, err)
	}
}
