// SPDX-License-Identifier: Apache-2.0

package join

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/remotes"
)

// leaving is the result for context one, and its API server's objects.
func leaving(s *clusterState, objects ...client.Object) *leaveResult {
	c := fakeCluster(objects...)
	return &leaveResult{Context: s.Context, Cluster: s.name(), Removed: []string{}, state: s, cluster: c, kubectl: s.Kubectl}
}

func labelled(partner string) map[string]string {
	return map[string]string{remotes.PartnerLabel: partner}
}

func removeAll(t *testing.T, r *leaveResult) string {
	t.Helper()
	var f leaveFlags
	if err := errors.Join(f.removeSecrets(t.Context(), r), f.removeAccounts(t.Context(), r)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r.print(&out, false)
	return out.String()
}

// The label alone makes nothing an object of join.
func TestLeaveByLabelAndName(t *testing.T) {
	t.Parallel()
	use := remotes.Use{Reader: "two", Target: "one", TargetNamespace: "istio-system"}
	account, role, binding := use.Account([]string{"istio"})
	other := gateway("istio-system")
	other.SetName("another-gateway")
	r := leaving(state("one"),
		account, role, binding, gateway("istio-system"), other,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod", Labels: labelled("x")}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istiod-agent-remote-two-copy", Labels: labelled("two")}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin", Labels: labelled("two")}},
	)
	got := removeAll(t, r)
	want := []string{
		"Gateway istio-system/cross-network-gateway", "ClusterRoleBinding istiod-agent-remote:istio-system:two", "ClusterRole istiod-agent-remote:istio-system:two",
		"ServiceAccount istio-system/istiod-agent-remote-two",
	}
	if !slices.Equal(r.Removed, want) {
		t.Errorf("got %q\n%s", r.Removed, got)
	}
}

// A Secret with a further cluster stays, and so does one of a namespace with a shorter name, which join did not make.
func TestLeaveSecrets(t *testing.T) {
	t.Parallel()
	parsed := func(namespace, name, partner string, keys ...string) remotes.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labelled(partner)}, Data: map[string][]byte{}}
		for _, key := range keys {
			s.Data[key] = []byte("x")
		}
		return remotes.Parse(s)
	}
	r := leaving(state("one", with(
		parsed("istio-system", "two", "two", "two"),
		parsed("istio-system", "both", "two", "two", "three"),
		parsed("istio-system", "renamed", "three", "two"),
		parsed("x", "y;z\n", "", "two"),
		parsed("istio-system", "three", "three", "three"),
	)))
	r.partners = sets.New("two")
	got := removeAll(t, r)
	want := `one: Secret istio-system/two removed
one: Secret istio-system/both remains, because it holds the kubeconfigs of 2 clusters; move those that stay to another Secret; to remove it: kubectl --context=one delete secret -n istio-system both
one: Secret istio-system/renamed remains, because join did not create it; to remove it: kubectl --context=one delete secret -n istio-system renamed
one: Secret x/y;z remains, because join did not create it; to remove it: kubectl --context=one delete secret -n x 'y;z '
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A context that reports the name of another cluster does not take that cluster's access along.
func TestLeaveOtherCluster(t *testing.T) {
	t.Parallel()
	use := remotes.Use{Reader: "two", Target: "one", TargetNamespace: "istio-system"}
	account, role, binding := use.Account([]string{"istio"})
	two := leaving(state("two"))
	same := leaving(state("one", with(joined())), account, role, binding)
	for _, r := range []*leaveResult{same, two} {
		r.meet([]*leaveResult{same, two})
	}
	if got := removeAll(t, same); !strings.Contains(got, "one: Secret istio-system/istio-remote-secret-two removed") || !strings.Contains(got, "ServiceAccount istio-system/istiod-agent-remote-two removed") {
		t.Error(got)
	}

	hostile := leaving(state("two", func(s *clusterState) { s.Accounts = nil; s.Address.Server = "https://hostile.example" }))
	other := leaving(state("one", with(joined())), account.DeepCopy(), role.DeepCopy(), binding.DeepCopy())
	other.meet([]*leaveResult{other, hostile})
	got := removeAll(t, other)
	for code, results := range map[int][]*leaveResult{0: {same, two}, exit.Problem: {other, hostile}} {
		var f leaveFlags
		coded, _ := errors.AsType[*exit.Error](f.report(io.Discard, results))
		if coded == nil && code != 0 || coded != nil && coded.Code != code {
			t.Errorf("got %+v, want exit code %d", coded, code)
		}
	}
	want := "one: Secret istio-system/istio-remote-secret-two remains, because the context whose istiod is named two has neither the account of its token nor its address: it may be of another cluster; to remove it: kubectl istiod-agent leave two --context=one --namespace=istio-system\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
