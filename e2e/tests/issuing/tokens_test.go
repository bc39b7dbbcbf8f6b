// SPDX-License-Identifier: Apache-2.0

package issuing

import (
	"testing"

	"github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
)

// tokenSecret is the name of the Secret that holds Vault's token.
const tokenSecret = "vault-token"

// fromSecret makes the agent take Vault's token from the Secret.
func fromSecret(vault map[string]any) {
	delete(vault, "kubernetesAuth")
	vault["tokenSecretRef"] = map[string]any{"name": tokenSecret}
}

// token creates a token with the rights of the guide's role.
func (s *setting) token(t *testing.T, ttl string) string {
	t.Helper()
	made, err := s.vault.Client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{
		Policies: []string{vaultserver.Role}, TTL: ttl, ExplicitMaxTTL: ttl, NoParent: true, Renewable: new(bool),
	})
	must(t, err)
	s.know("the token of the Secret", made.Auth.ClientToken)
	return made.Auth.ClientToken
}

// lives expects a valid token.
func (s *setting) lives(t *testing.T, token string) {
	t.Helper()
	if _, err := s.vault.Client.Auth().Token().LookupWithContext(t.Context(), token); err != nil {
		t.Errorf("the token of the Secret was revoked: %v", err)
	}
}

// revoked returns a revoked token.
func (s *setting) revoked(t *testing.T) string {
	t.Helper()
	token := s.token(t, "1h")
	must(t, s.vault.Client.Auth().Token().RevokeTreeWithContext(t.Context(), token))
	return token
}

// expired returns an expired token.
func (s *setting) expired(t *testing.T) string {
	t.Helper()
	token := s.token(t, "1s")
	must(t, s.ended(t.Context(), token))
	return token
}

// keep replaces the data of the Secret.
func (s *setting) keep(t *testing.T, values map[string]string) {
	t.Helper()
	s.forget(t)
	must(t, shared.Create(t.Context(), &corev1.Secret{ObjectMeta: s.secret(), StringData: values}))
}

// forget deletes the Secret if it exists.
func (s *setting) forget(t *testing.T) {
	t.Helper()
	must(t, client.IgnoreNotFound(shared.Delete(t.Context(), &corev1.Secret{ObjectMeta: s.secret()})))
}

func (s *setting) secret() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: tokenSecret, Namespace: s.Namespace}
}

// allow grants istiod's service account the right of docs/agent.md, get on the Secret, and returns once it is effective.
func (s *setting) allow(t *testing.T) {
	t.Helper()
	must(t, shared.Create(t.Context(), &rbacv1.Role{ObjectMeta: s.secret(), Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{tokenSecret}, Verbs: []string{"get"}},
	}}))
	must(t, shared.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: s.secret(),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: tokenSecret},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.Namespace, Name: agents.ServiceAccount}},
	}))
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	must(t, err)
	istiod, err := kubernetes.NewForConfig(config)
	must(t, err)
	cluster.Eventually(t, "istiod's service account may read the Secret", func() error {
		_, err := istiod.CoreV1().Secrets(s.Namespace).Get(t.Context(), tokenSecret, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// The agent uses a Secret's token as it is and never revokes it. If there is no usable token, the message names the problem.
func TestSecretToken(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	proxy := s.proxy(t)
	s.specify(t, fromSecret)
	s.refused(t, "TokenUnavailable", `cannot get resource "secrets"`)
	s.allow(t)
	unknown := "it does not know the token in Secret " + s.Namespace + "/vault-token: it has expired, was revoked or used up"
	for name, test := range map[string]struct {
		values       func(t *testing.T) map[string]string // none for no Secret
		reason, says string
	}{
		"no Secret": {nil, "TokenUnavailable", `reading Vault's token: reading Secret ` + s.Namespace + `/vault-token: secrets "vault-token" not found`},
		"no key token": {
			func(t *testing.T) map[string]string { return map[string]string{"vault-token": s.token(t, "1h")} },
			"TokenUnavailable", `Secret ` + s.Namespace + `/vault-token: it has no key "token"`,
		},
		"an empty token":  {func(*testing.T) map[string]string { return map[string]string{"token": ""} }, "TokenUnavailable", `it has no key "token"`},
		"a blank token":   {func(*testing.T) map[string]string { return map[string]string{"token": "\n"} }, "VaultBadConfiguration", "the token is empty"},
		"a foreign token": {func(*testing.T) map[string]string { return map[string]string{"token": "not-of-this-vault"} }, "VaultNotAuthorized", unknown},
		"an expired one":  {func(t *testing.T) map[string]string { return map[string]string{"token": s.expired(t)} }, "VaultNotAuthorized", unknown},
		"a revoked one":   {func(t *testing.T) map[string]string { return map[string]string{"token": s.revoked(t)} }, "VaultNotAuthorized", unknown},
	} {
		t.Run(name, func(t *testing.T) {
			s.forget(t)
			if test.values != nil {
				s.keep(t, test.values(t))
			}
			s.refused(t, test.reason, test.says)
		})
	}

	token := s.token(t, "1h")
	s.keep(t, map[string]string{"token": token + "\n"}) // as `kubectl create secret --from-file` may have it
	s.issues(t)
	s.lives(t, token)
	if n := proxy.Count(loginPath) + proxy.Count(revokePath); n > 0 {
		t.Errorf("the agent has logged in or out: %q", proxy.Calls())
	}
}

// A sidecar whose token is no longer valid renews as soon as the Secret holds another, and revokes neither.
func TestSecretTokenReplaced(t *testing.T) {
	s := newSetting(t, vaultserver.Options{})
	proxy := s.proxy(t)
	s.allow(t)
	first, second := s.token(t, "1h"), s.token(t, "1h")
	s.keep(t, map[string]string{"token": first})
	s.specify(t, fromSecret)
	sidecar := s.runs(t)
	s.lives(t, first)
	s.recovers(t, sidecar, "VaultNotAuthorized", "put a new one there", func() func() {
		must(t, s.vault.Client.Auth().Token().RevokeTreeWithContext(t.Context(), first))
		return func() { s.keep(t, map[string]string{"token": second}) }
	})
	s.lives(t, second)
	if n := proxy.Count(revokePath); n > 0 {
		t.Errorf("the agent has revoked a token: %q", proxy.Calls())
	}
}
