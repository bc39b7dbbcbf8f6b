// SPDX-License-Identifier: Apache-2.0

package join

import (
	"crypto/x509"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

var (
	now    = time.Unix(1_800_000_000, 0)
	roots  = []*x509.Certificate{testca.Root("one").Certificate}
	others = []*x509.Certificate{testca.Root("two").Certificate}
)

// state is that of a cluster that can be joined.
func state(name string, change ...func(*clusterState)) *clusterState {
	s := &clusterState{
		Context: name, Kubectl: "kubectl --context=" + name, UID: types.UID("uid-" + name), Namespace: "istio-system",
		Istiods: []istiodState{{Name: "istiod", ClusterID: name, Revision: "default"}}, Roots: roots,
		Address:  remotes.Address{Server: "https://" + name + ".example:6443", CA: []byte("CA")},
		Accounts: map[types.NamespacedName]types.UID{named("istiod-agent-remote-one"): "u-one", named("istiod-agent-remote-two"): "u-two"}, ReadSecrets: sets.New[types.NamespacedName](),
	}
	for _, each := range change {
		each(s)
	}
	return s
}

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "istio-system", Name: name}
}

func with(secrets ...remotes.Secret) func(*clusterState) {
	return func(s *clusterState) { s.Secrets = secrets }
}

// joined is a remote secret of join for cluster two in cluster one.
func joined(change ...func(*remotes.Secret)) remotes.Secret {
	s := remotes.Secret{
		Key: types.NamespacedName{Namespace: "istio-system", Name: "istio-remote-secret-two"}, Clusters: []string{"two"}, Joined: true,
		Server: "https://two.example:6443", CA: []byte("CA"), Account: types.NamespacedName{Namespace: "istio-system", Name: "istiod-agent-remote-one"},
		AccountUID: "u-one", IssuedAt: now.Add(-time.Hour), Expires: now.Add(89 * 24 * time.Hour),
	}
	for _, each := range change {
		each(&s)
	}
	return s
}

// foreign is one of istioctl.
func foreign(s *remotes.Secret) {
	s.Joined, s.Account.Name, s.Expires, s.TokenSecret = false, "istio-reader-service-account", time.Time{}, "reader-token"
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		states []*clusterState
		want   []string
	}{
		"two clusters":            {[]*clusterState{state("one"), state("two")}, nil},
		"one cluster twice":       {[]*clusterState{state("one"), state("two", func(s *clusterState) { s.UID = "uid-one" })}, []string{"two: is the same cluster as one"}},
		"one name twice":          {[]*clusterState{state("one"), state("two", func(s *clusterState) { s.Istiods[0].ClusterID = "one" })}, []string{"two: its cluster name is one, like that of one; set another global.multiCluster.clusterName"}},
		"Istio's default":         {[]*clusterState{state("one", func(s *clusterState) { s.Istiods[0].ClusterID = "Kubernetes" }), state("two")}, []string{`one: its istiod calls the cluster "Kubernetes", but names of Secrets`}},
		"a name of another shape": {[]*clusterState{state("one", func(s *clusterState) { s.Istiods[0].ClusterID = "a/../b" }), state("two")}, []string{`one: its istiod calls the cluster "a/../b"`}},
		"a name for a terminal":   {[]*clusterState{state("one", func(s *clusterState) { s.Istiods[0].ClusterID = "\x1b[2J" }), state("two")}, []string{`one: its istiod calls the cluster "\x1b[2J"`}},
		"no name":                 {[]*clusterState{state("one", func(s *clusterState) { s.Istiods[0].ClusterID = "" }), state("two")}, []string{"one: its istiods (istio-system/istiod) have no common CLUSTER_ID"}},
		"revisions that disagree": {[]*clusterState{state("one", func(s *clusterState) {
			s.Istiods = append(s.Istiods, istiodState{Name: "istiod-canary", ClusterID: "x"})
		}), state("two")}, []string{"one: its istiods (istio-system/istiod, istio-system/istiod-canary) have no common CLUSTER_ID"}},
		"as in the VirtualMesh":    {[]*clusterState{state("one", func(s *clusterState) { s.MeshNames = []string{"istiod-istio-system-one", "istiod-other-x"} }), state("two")}, nil},
		"another than VirtualMesh": {[]*clusterState{state("one", func(s *clusterState) { s.MeshNames = []string{"istiod-istio-system-first"} }), state("two")}, []string{"one: its istiod calls the cluster one, but its mesh in the VirtualMesh is istiod-istio-system-first"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantProblems(t, identify(test.states), test.want)
		})
	}
}

func wantProblems(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) && !strings.Contains(got[i], want[i]) {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	ranges := func(prefix string) func(*clusterState) {
		return func(s *clusterState) { s.PodRanges = []netip.Prefix{netip.MustParsePrefix(prefix)} }
	}
	network := func(name string) func(*clusterState) { return func(s *clusterState) { s.Network = name } }
	gateways := func(names ...string) func(*clusterState) {
		return func(s *clusterState) {
			for _, name := range names {
				s.Gateways = append(s.Gateways, gatewayService{Network: name})
			}
		}
	}
	for name, test := range map[string]struct {
		one, two *clusterState
		request  joinRequest
		want     []string
	}{
		"none":          {state("one", ranges("10.1.0.0/16")), state("two", ranges("10.2.0.0/16")), joinRequest{}, nil},
		"other roots":   {state("one"), state("two", func(s *clusterState) { s.Roots = others }), joinRequest{}, []string{"the roots of trust differ: one trusts "}},
		"a root change": {state("one"), state("two", func(s *clusterState) { s.Roots = append(slices.Clone(others), roots...) }), joinRequest{}, []string{"a root change is in progress; complete it"}},
		"a loopback server": {state("one", func(s *clusterState) {
			s.Address.Server, s.Addresses = "https://127.0.0.1:6443", []string{"https://172.18.0.2:6443"}
		}), state("two"), joinRequest{}, []string{"one: the kubeconfig's server https://127.0.0.1:6443 is an address of this machine, which no Pod can reach; pass an address that Pods of the other clusters can reach, with --api-server one=https://HOST:PORT (in the cluster's own network it is https://172.18.0.2:6443)"}},
		"a loopback server, given": {state("one", func(s *clusterState) { s.Address.Server = "https://127.0.0.1:6443" }), state("two"), joinRequest{Given: map[string]string{"one": "https://127.0.0.1:6443"}}, nil},
		"no TLS":                   {state("one", func(s *clusterState) { s.Address.Server = "http://one.example" }), state("two"), joinRequest{}, []string{"one: istiod cannot use the server in the kubeconfig: expected https://HOST:PORT"}},
		"a server for a terminal":  {state("one", func(s *clusterState) { s.Address.Server = "https://one\x1b[2J" }), state("two"), joinRequest{}, []string{"one: istiod cannot use the server in the kubeconfig: it is not a URL"}},
		"TLS without a check":      {state("one", func(s *clusterState) { s.Insecure = true }), state("two"), joinRequest{}, []string{"one: the kubeconfig has insecure-skip-tls-verify"}},
		"an istiod that crashes":   {state("one", func(s *clusterState) { s.Istiods[0].Crashes = true }), state("two"), joinRequest{}, []string{"one: istiod istio-system/istiod has PILOT_ENABLE_REMOTE_CREDENTIALS_CONTROLLER=false, with which Istio 1.31 crashes"}},
		"overlapping Pods":         {state("one", ranges("10.244.0.0/24")), state("two", ranges("10.244.0.0/16")), joinRequest{}, []string{"two: Pods have addresses in 10.244.0.0/16, and Pods of one in 10.244.0.0/24: no network routes them"}},
		"two networks":             {state("one", network("n1")), state("two"), joinRequest{}, []string{"the networks differ: one is in n1, two in none; name the network of each context by --network"}},
		"networks with gateways": {
			state("one", network("n1"), gateways("n1"), ranges("10.244.0.0/24")), state("two", gateways("x", "n2"), ranges("10.244.0.0/24")),
			joinRequest{Networks: map[string]string{"one": "n1", "two": "n2"}},
			nil,
		},
		"a network without a name": {state("one", gateways("n1")), state("two"), joinRequest{Networks: map[string]string{"one": "n1"}}, []string{"two: --network is missing; name the network of every context"}},
		"another network":          {state("one", network("n1"), gateways("n2")), state("two", gateways("n2")), joinRequest{Networks: map[string]string{"one": "n2", "two": "n2"}}, []string{"one: namespace istio-system has network n1, not n2; join does not change a network"}},
		"no gateway":               {state("one", gateways("n1")), state("two", gateways("n1")), joinRequest{Networks: map[string]string{"one": "n1", "two": "n2"}}, []string{"two: network n2 has no east-west gateway"}},
		"no label":                 {state("one", gateways("n1")), state("two"), joinRequest{Networks: map[string]string{"one": "n1", "two": "-"}}, []string{`two: --network "-" is not a valid label value`}},
		"several clusters in one Secret": {
			state("one", with(remotes.Secret{Key: types.NamespacedName{Namespace: "istio-system", Name: "all"}, Clusters: []string{"three", "two"}, Unclear: "it holds the kubeconfigs of 2 clusters"})), state("two"),
			joinRequest{},
			[]string{"one: Secret istio-system/all is not changed, because it is not a remote secret for cluster two alone with the token of a service account: it holds the kubeconfigs of 2 clusters; move its content, then kubectl --context=one delete secret -n istio-system all"},
		},
		"the name for another cluster": {
			state("one", with(joined(func(s *remotes.Secret) { s.Clusters = []string{"three"} }))), state("two"),
			joinRequest{},
			[]string{"it is for another cluster"},
		},
		"two Secrets for a cluster": {
			state("one", with(joined(), joined(func(s *remotes.Secret) { s.Key.Name = "second" }))), state("two"),
			joinRequest{},
			[]string{"one: the Secrets istio-system/istio-remote-secret-two and istio-system/second both name cluster two, and istiod uses the first one that it reads; delete one: kubectl --context=one delete secret -n istio-system second"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := decide(test.request, []*clusterState{test.one, test.two}, now)
			wantProblems(t, problems, test.want)
		})
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	reads := func(s *clusterState) {
		s.ReadSecrets.Insert(types.NamespacedName{Namespace: "istio-system", Name: "istio-reader-service-account"})
	}
	for name, test := range map[string]struct {
		secrets []remotes.Secret
		two     *clusterState
		renew   bool
		want    action
		reason  string
	}{
		"new":                  {nil, state("two"), false, create, ""},
		"joined":               {[]remotes.Secret{joined()}, state("two"), false, keep, ""},
		"asked for":            {[]remotes.Secret{joined()}, state("two"), true, renewal, "requested by --renew"},
		"expired":              {[]remotes.Secret{joined(func(s *remotes.Secret) { s.Expires = now })}, state("two"), true, renewal, "its token has expired"},
		"expires soon":         {[]remotes.Secret{joined(func(s *remotes.Secret) { s.Expires = now.Add(20 * time.Minute) })}, state("two"), false, renewal, "less than a third of its token's lifetime remains"},
		"another address":      {[]remotes.Secret{joined(func(s *remotes.Secret) { s.Server = "https://old.example" })}, state("two"), false, renewal, "the address of the API server differs"},
		"another CA":           {[]remotes.Secret{joined(func(s *remotes.Secret) { s.CA = nil })}, state("two"), false, renewal, "the address of the API server differs"},
		"another account":      {[]remotes.Secret{joined(func(s *remotes.Secret) { s.AccountUID = "u-old" })}, state("two"), false, renewal, "the account of its token was deleted"},
		"reads all Secrets":    {[]remotes.Secret{joined(foreign)}, state("two", reads), false, replace, "it uses account istio-system/istio-reader-service-account, which may read every Secret of two"},
		"another's, limited":   {[]remotes.Secret{joined(foreign)}, state("two"), true, keep, "it uses account istio-system/istio-reader-service-account, which may not read the Secrets of all namespaces"},
		"another's, expired":   {[]remotes.Secret{joined(foreign, func(s *remotes.Secret) { s.Expires = now })}, state("two"), false, replace, "it uses account istio-system/istio-reader-service-account, and its token has expired"},
		"for other clusters":   {[]remotes.Secret{joined(func(s *remotes.Secret) { s.Key.Name, s.Clusters = "x", []string{"three"} })}, state("two"), false, create, ""},
		"by a name of its own": {[]remotes.Secret{joined(func(s *remotes.Secret) { s.Key.Name = "own" })}, state("two"), false, keep, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, problems := decide(joinRequest{Renew: test.renew, Restart: true}, []*clusterState{state("one", with(test.secrets...)), test.two}, now)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			g := plan.Grants[0]
			if g.Reader != "one" || g.Target != "two" || g.Action != test.want || g.Reason != test.reason || g.Address.Server != "https://two.example:6443" || !slices.Equal(g.MeshConfigs, []string{"istio"}) {
				t.Errorf("got %+v", g)
			}
			if restart := test.want == renewal || test.want == replace; plan.Restart[0] != restart || plan.Restart[1] {
				t.Errorf("restarts %v", plan.Restart)
			}
			if (g.TokenSecret.Name != "") != (test.want == replace) {
				t.Errorf("the old token: %v", g.TokenSecret)
			}
		})
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for server, want := range map[string]bool{
		"https://127.0.0.1:6443": true, "https://127.9.9.9": true, "https://localhost:1": true, "https://LocalHost.:1": true, "https://a.localhost": true, "https://[::1]:6443": true,
		"https://[::ffff:127.0.0.1]": true, "https://0.0.0.0:6443": true, "https://10.0.0.1": false, "https://localhost.example": false, "https://[2001:db8::1]:6443": false,
	} {
		if got := loopback(server); got != want {
			t.Errorf("%s: %t", server, got)
		}
	}
}

func TestParsePairs(t *testing.T) {
	t.Parallel()
	contexts := []string{"a", "b=c"}
	for value, want := range map[string]string{
		"a=x": "", "b=c=x": "", "a": "expected CONTEXT=NAME", "=x": "expected CONTEXT=NAME", "a=": "expected CONTEXT=NAME", "d=x": `"d" is not one of the contexts`,
	} {
		_, err := parsePairs("network", "NAME", []string{value}, contexts)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", value, err)
		}
	}
	if _, err := parsePairs("network", "NAME", []string{"a=x", "a=y"}, contexts); err == nil {
		t.Error("a context twice")
	}
}
