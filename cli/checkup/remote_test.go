// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
)

func TestRemotes(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	secret := func(change func(*remotes.Secret)) remotes.Secret {
		s := remotes.Secret{
			Key: types.NamespacedName{Namespace: "istio-system", Name: "istio-remote-secret-two"}, Clusters: []string{"two"}, Joined: true,
			Account: types.NamespacedName{Namespace: "istio-system", Name: "istiod-agent-remote-one"}, IssuedAt: now.Add(-time.Hour), Expires: now.Add(80 * 24 * time.Hour),
		}
		if change != nil {
			change(&s)
		}
		return s
	}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "", errors.New("no"))
	federated := unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"meshes": []any{map[string]any{"name": "a"}, map[string]any{"name": "b"}}}}}
	for name, test := range map[string]struct {
		state remoteState
		mesh  *unstructured.Unstructured
		want  string // of the only line; empty for none
	}{
		"none":               {remoteState{}, nil, ""},
		"joined":             {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(nil)}}}, nil, "ok remote secrets: for two: their accounts are named as those of kubectl istiod-agent join, and their tokens have not expired; "},
		"expired":            {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Expires = now })}}}, nil, "fail remote secret istio-system/istio-remote-secret-two: its token expired at 2027-01-15T08:00:00Z: istiod sees no changes of cluster two"},
		"expires soon":       {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Expires = now.Add(time.Minute) })}}}, nil, "warn remote secret istio-system/istio-remote-secret-two: its token for cluster two expires at"},
		"unsafe":             {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Unsafe, s.Expires = "its kubeconfig has proxy-url", now })}}}, nil, "fail remote secret istio-system/istio-remote-secret-two: is not a safe connection to cluster two: its kubeconfig has proxy-url; kubectl delete secret -n istio-system istio-remote-secret-two, and then kubectl istiod-agent join"},
		"Istio's account":    {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Account.Name = "istio-reader-service-account" })}}}, nil, "warn remote secret istio-system/istio-remote-secret-two: uses account istio-system/istio-reader-service-account of cluster two, which may read every Secret there"},
		"an unknown account": {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Account.Name = "x; rm -rf /" })}}}, nil, "warn remote secret istio-system/istio-remote-secret-two: uses account istio-system/x; rm -rf / of cluster two, which join did not make; see in that cluster that it may not read Secrets: kubectl auth can-i list secrets -A --as='system:serviceaccount:istio-system:x; rm -rf /'"},
		"another login":      {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Unclear = "its kubeconfig has another login than a token" })}}}, nil, "warn remote secret istio-system/istio-remote-secret-two: cannot be checked: its kubeconfig has another login"},
		"too many rights":    {remoteState{Accounts: fact[[]client.ObjectKey]{Value: []client.ObjectKey{{Namespace: "istio-system", Name: "istiod-agent-remote-two"}}}}, nil, "fail account istio-system/istiod-agent-remote-two: is for another cluster's istiod, and may read every Secret of this cluster"},
		"not allowed":        {remoteState{Secrets: fact[[]remotes.Secret]{Err: forbidden}}, &federated, "warn remote secrets: are not checked: you may not list Secrets"},
		"not allowed, alone": {remoteState{Secrets: fact[[]remotes.Secret]{Err: forbidden}}, nil, ""},
		"no answer":          {remoteState{Secrets: fact[[]remotes.Secret]{Err: errors.New("timeout")}}, nil, "unknown remote secrets: listing remote secrets: timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts := &clusterFacts{Remotes: test.state}
			if test.mesh != nil {
				facts.Meshes.Value = []unstructured.Unstructured{*test.mesh}
			}
			d := &decision{facts: facts, kubectl: "kubectl", now: now}
			d.remotes()
			got := ""
			for _, line := range d.lines {
				got += string(line.Status) + " " + line.What + ": " + line.Detail + "; " + line.Next
			}
			if !strings.HasPrefix(got, test.want) || (test.want == "") != (got == "") || len(d.lines) > 1 {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A tenant's istiod and remote secret are not the mesh's, unless nothing tells them apart.
func TestRemotesOfATenant(t *testing.T) {
	t.Parallel()
	secret := func(namespace string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "remote", Labels: map[string]string{"istio/multiCluster": "true"}}}
	}
	reader := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(secret("istio-system"), secret("tenant")).Build()
	istiods := []istiodState{{Namespace: "tenant"}, {Namespace: "istio-system"}}
	for name, test := range map[string]struct {
		namespaces []namespaceState
		want       []string
	}{
		"labelled": {[]namespaceState{{Name: "istio-system", Labelled: true}, {Name: "tenant"}}, []string{"istio-system/remote"}},
		"no label": {[]namespaceState{{Name: "istio-system"}, {Name: "tenant"}}, []string{"tenant/remote", "istio-system/remote"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, s := range readRemotes(t.Context(), reader, istiods, test.namespaces).Secrets.Value {
				got = append(got, s.Key.String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
