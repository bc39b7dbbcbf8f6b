// SPDX-License-Identifier: Apache-2.0

package remotes_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
)

// jwt returns a token with these claims, and no signature that anybody accepts.
func jwt(claims any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(payload) + ".c2ln"
}

type fields = map[string]any

var (
	use     = remotes.Use{Reader: "cluster-1", Target: "cluster-2", ReaderNamespace: "istio-system", TargetNamespace: "istio-system"}
	address = remotes.Address{Server: "https://192.0.2.1:6443", TLSServerName: "api", CA: []byte("a CA")}
	issued  = time.Unix(1_800_000_000, 0)
	expires = issued.Add(90 * 24 * time.Hour)
	valid   = fields{
		"sub": "system:serviceaccount:istio-system:istiod-agent-remote-cluster-1", "iat": issued.Unix(), "exp": expires.Unix(),
		"kubernetes.io": fields{"serviceaccount": fields{"uid": "u-1"}},
	}
)

func secretWith(t *testing.T, token string) *corev1.Secret {
	t.Helper()
	secret, err := use.Secret("istio-remote-secret-cluster-2", address, token, expires)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// What Secret writes, Parse reads.
func TestSecretAndParse(t *testing.T) {
	t.Parallel()
	secret := secretWith(t, jwt(valid))
	if secret.Labels["istio/multiCluster"] != "true" || secret.Annotations["networking.istio.io/cluster"] != "cluster-2" || secret.Annotations[remotes.ExpiresAnnotation] != "2027-04-15T08:00:00Z" {
		t.Errorf("labels %v, annotations %v", secret.Labels, secret.Annotations)
	}
	got := remotes.Parse(secret)
	if got.Unclear != "" || got.Unsafe != "" || !got.Joined || !address.Is(&got) || got.Account.String() != "istio-system/"+use.AccountName() || got.AccountUID != "u-1" ||
		!got.IssuedAt.Equal(issued) || !got.Expires.Equal(expires) || !slices.Equal(got.Clusters, []string{"cluster-2"}) {
		t.Errorf("got %+v", got)
	}
	for at, want := range map[time.Time][2]bool{issued: {}, issued.Add(59 * 24 * time.Hour): {}, issued.Add(61 * 24 * time.Hour): {true, false}, expires: {true, true}} {
		if got.EndsSoon(at) != want[0] || got.Expired(at) != want[1] {
			t.Errorf("at %s: ends soon %t, expired %t", at, got.EndsSoon(at), got.Expired(at))
		}
	}
}

// istioctl's secrets hold a token without an end, which a Secret in the other cluster holds too.
func TestTokenOfASecret(t *testing.T) {
	t.Parallel()
	got := remotes.Parse(secretWith(t, jwt(fields{
		"sub": "system:serviceaccount:istio-system:istio-reader-service-account", "kubernetes.io/serviceaccount/secret.name": "reader-token",
		"kubernetes.io/serviceaccount/service-account.uid": "u-2",
	})))
	if got.Unclear != "" || got.TokenSecret != "reader-token" || got.AccountUID != "u-2" || !got.Expires.IsZero() || got.EndsSoon(issued) || got.Expired(issued) {
		t.Errorf("got %+v", got)
	}
}

// Whatever does not hold one cluster and one token of a service account is named, without a word of its content.
func TestUnclear(t *testing.T) {
	t.Parallel()
	kubeconfig := func(user string) string {
		return "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://192.0.2.1'}}]\nusers: [{name: u, user: " + user + "}]\n"
	}
	token := jwt(valid)
	for name, test := range map[string]struct {
		data map[string][]byte
		want string
	}{
		"no cluster":         {nil, "it holds the kubeconfigs of 0 clusters"},
		"two clusters":       {map[string][]byte{"a": nil, "b": nil}, "it holds the kubeconfigs of 2 clusters"},
		"empty":              {map[string][]byte{"a": nil}, "no current context"},
		"no YAML":            {map[string][]byte{"a": []byte("{secret-word")}, "its kubeconfig does not parse"},
		"too large":          {map[string][]byte{"a": []byte(strings.Repeat("secret-word ", 1<<13))}, "its kubeconfig is larger than 64 KiB"},
		"no context":         {map[string][]byte{"a": []byte("apiVersion: v1\nkind: Config\n")}, "no current context"},
		"a plugin":           {map[string][]byte{"a": []byte(kubeconfig(`{exec: {apiVersion: client.authentication.k8s.io/v1, command: secret-word}}`))}, "another login than a token"},
		"a plugin and token": {map[string][]byte{"a": []byte(kubeconfig(`{token: ` + token + `, exec: {apiVersion: client.authentication.k8s.io/v1, command: secret-word}}`))}, "another login than a token"},
		"a client key":       {map[string][]byte{"a": []byte(kubeconfig(`{token: ` + token + `, client-key-data: c2VjcmV0}`))}, "another login than a token"},
		"a password":         {map[string][]byte{"a": []byte(kubeconfig(`{username: x, password: secret-word}`))}, "another login than a token"},
		"an opaque token":    {map[string][]byte{"a": []byte(kubeconfig(`{token: secret-word}`))}, "not that of a service account"},
		"no base64":          {map[string][]byte{"a": []byte(kubeconfig(`{token: a.!.c}`))}, "not that of a service account"},
		"a user's token":     {map[string][]byte{"a": []byte(kubeconfig(`{token: ` + jwt(fields{"sub": "secret-word"}) + `}`))}, "not that of a service account"},
		"a number as name":   {map[string][]byte{"a": []byte(kubeconfig(`{token: ` + jwt(fields{"sub": 1}) + `}`))}, "not that of a service account"},
		"a short name":       {map[string][]byte{"a": []byte(kubeconfig(`{token: ` + jwt(fields{"sub": "system:serviceaccount::x"}) + `}`))}, "not that of a service account"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := remotes.Parse(&corev1.Secret{Data: test.data})
			if !strings.Contains(got.Unclear, test.want) || strings.Contains(got.Unclear, "secret-word") {
				t.Errorf("got %q, want %q", got.Unclear, test.want)
			}
		})
	}
}

// A connection that istiod cannot use, or that is not verified, is never equal to one of join.
func TestOtherAddress(t *testing.T) {
	t.Parallel()
	for _, cluster := range []string{"insecure-skip-tls-verify: true", "certificate-authority: /etc/ca", "proxy-url: http://192.0.2.9", "server: 'http://192.0.2.1'", "server: '192.0.2.1:6443'", "server: '://'"} {
		if !strings.HasPrefix(cluster, "server:") {
			cluster += ", server: 'https://192.0.2.1'"
		}
		got := remotes.Parse(&corev1.Secret{Data: map[string][]byte{"a": []byte("apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {" + cluster + "}}]\nusers: [{name: u, user: {token: " + jwt(valid) + "}}]\n")}})
		if got.Unclear != "" || got.Unsafe == "" || (remotes.Address{Server: "https://192.0.2.1"}).Is(&got) {
			t.Errorf("%s: %+v", cluster, got)
		}
	}
}

// bomb is YAML of a few kilobytes that expands to gigabytes.
func bomb() []byte {
	return []byte("a: &a " + strings.Repeat("x", 30<<10) + "\nb: &b [" + strings.Repeat("*a,", 1000) + "]\nc: &c [" + strings.Repeat("*b,", 1000) + "]\nd: [" + strings.Repeat("*c,", 1000) + "]\n")
}

// Aliases are refused before anything expands them.
func TestExpansion(t *testing.T) {
	t.Parallel()
	for want, kubeconfig := range map[string][]byte{
		"its kubeconfig has YAML aliases":              bomb(),
		"its kubeconfig has more than 5000 YAML nodes": []byte("a: [" + strings.Repeat("1,", 5000) + "]\n"),
	} {
		if got := remotes.Parse(&corev1.Secret{Data: map[string][]byte{"c": kubeconfig}}); got.Unclear != want {
			t.Errorf("got %q, want %q", got.Unclear, want)
		}
	}
}

// A person who lists Secrets gets an error, and no endless loop, where somebody has created too many or the API server has no end.
func TestTooMany(t *testing.T) {
	t.Parallel()
	page := func(count, keys int) *corev1.SecretList {
		list := &corev1.SecretList{Items: make([]corev1.Secret, count)}
		for i := range list.Items {
			list.Items[i].Data = map[string][]byte{}
			for k := range keys {
				list.Items[i].Data[strconv.Itoa(k)] = nil
			}
		}
		return list
	}
	for name, test := range map[string]struct {
		page  *corev1.SecretList
		pages int // 0 for no end
		fails bool
	}{
		"as many as allowed": {page(50, 1), 20, false},
		"one page more":      {page(50, 1), 21, true},
		"no end":             {page(50, 1), 0, true},
		"no end, and empty":  {page(0, 0), 0, true},
		"no keys":            {page(50, 0), 0, true},
		"many keys":          {page(1, 1001), 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := remotes.List(t.Context(), &pages{page: test.page, left: test.pages}, "")
			if test.fails && (err == nil || !strings.Contains(err.Error(), "more than 1000 remote secrets")) || !test.fails && (err != nil || len(got) != 1000) {
				t.Errorf("%d, %v", len(got), err)
			}
		})
	}
}

// pages is an API server that answers each request with the same page.
type pages struct {
	client.Reader
	page *corev1.SecretList
	left int
}

func (p *pages) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	p.page.DeepCopyInto(list.(*corev1.SecretList))
	if p.left--; p.left != 0 {
		list.SetContinue("more")
	}
	return nil
}

// Times that no calendar has do not become other times.
func TestHostileTimes(t *testing.T) {
	t.Parallel()
	for _, exp := range []any{-1, 0, 1e300, "soon"} {
		got := remotes.Parse(secretWith(t, jwt(fields{"sub": "system:serviceaccount:a:b", "exp": exp})))
		if _, err := got.Expires.MarshalJSON(); err != nil || got.Expired(issued) {
			t.Errorf("%v: %v, %v", exp, got.Expires, err)
		}
	}
}

// No rule of the account names Secrets, a write, or everything.
func TestRules(t *testing.T) {
	t.Parallel()
	account, role, binding := use.Account([]string{"istio"})
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			if resource == "secrets" || strings.ContainsAny(resource, "*/") || resource == "configmaps" && len(rule.ResourceNames) == 0 {
				t.Errorf("rule %v", rule)
			}
		}
		if !slices.Equal(rule.Verbs, []string{"list", "watch"}) || slices.Contains(rule.APIGroups, "*") {
			t.Errorf("rule %v", rule)
		}
	}
	if binding.Subjects[0].Name != account.Name || binding.RoleRef.Name != role.Name || account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
		t.Errorf("%v %v %v", account, role, binding)
	}
}

// Any bytes as a kubeconfig give a Secret without its bytes.
func FuzzParse(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: Config\n"))
	secret, err := use.Secret("s", address, jwt(valid), expires)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(secret.Data["cluster-2"])
	f.Add(bomb())
	f.Add([]byte("apiVersion: v1\nkind: Config\nclusters: &c []\nusers: *c\n"))
	f.Fuzz(func(t *testing.T, kubeconfig []byte) {
		got := remotes.Parse(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"c": kubeconfig}})
		if (got.Unclear == "") != (got.Account != types.NamespacedName{}) && got.Unclear == "" {
			t.Errorf("%+v", got)
		}
		if _, err := json.Marshal(got); err != nil {
			t.Error(err)
		}
	})
}
