// SPDX-License-Identifier: Apache-2.0

package checkup

import (
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
		"joined":             {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(nil)}}}, nil, "ok remote secrets: for two: their accounts are those of"},
		"expired":            {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Expires = now })}}}, nil, "fail remote secret istio-system/istio-remote-secret-two: its token expired at 2027-01-15T08:00:00Z: istiod sees no changes of cluster two"},
		"expires soon":       {remoteState{Secrets: fact[[]remotes.Secret]{Value: []remotes.Secret{secret(func(s *remotes.Secret) { s.Expires = now.Add(time.Minute) })}}}, nil, "warn remote secret istio-system/istio-remote-secret-two: its token for cluster two expires at"},
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
