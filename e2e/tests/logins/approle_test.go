// SPDX-License-Identifier: Apache-2.0

package logins

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// appRole writes the AppRole istiod, and returns its role id and a secret id.
func (s *setting) appRole(t *testing.T, mount string, changes map[string]any) (roleID, secretID string) {
	t.Helper()
	role := map[string]any{"token_policies": policy, "token_ttl": "10m", "token_max_ttl": "10m", "secret_id_ttl": "1h"}
	maps.Copy(role, changes)
	path := "auth/" + mount + "/role/istiod"
	s.write(t, path, role)
	answer, err := s.vault.Client.Logical().ReadWithContext(t.Context(), path+"/role-id")
	must(t, err)
	return answer.Data["role_id"].(string), s.secretID(t, mount)
}

func (s *setting) secretID(t *testing.T, mount string) string {
	t.Helper()
	return s.know(s.write(t, "auth/"+mount+"/role/istiod/secret-id", nil).Data["secret_id"].(string))
}

// wrapped returns a wrapping token of an endpoint's answer.
func (s *setting) wrapped(t *testing.T, path string, data map[string]any, ttl string) string {
	t.Helper()
	client, err := s.vault.NewClient(s.vault.RootToken)
	must(t, err)
	client.SetWrappingLookupFunc(func(string, string) string { return ttl })
	answer, err := client.Logical().WriteWithContext(t.Context(), path, data)
	must(t, err)
	return s.know(answer.WrapInfo.Token)
}

func appRoleAuth(roleID string, changes map[string]any) map[string]any {
	auth := map[string]any{"roleId": roleID, "secretIdSecretRef": map[string]any{"name": secretName}}
	maps.Copy(auth, changes)
	return auth
}

func TestAppRole(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "approle", "approle")
	roleID, secretID := s.appRole(t, "approle", nil)
	s.write(t, "auth/approle/role/other", map[string]any{"token_policies": policy})
	other := s.know(s.write(t, "auth/approle/role/other/secret-id", nil).Data["secret_id"].(string))
	short := s.know(s.write(t, "auth/approle/role/istiod/secret-id", map[string]any{"ttl": "1s"}).Data["secret_id"].(string))
	once := s.know(s.write(t, "auth/approle/role/istiod/secret-id", map[string]any{"num_uses": 1}).Data["secret_id"].(string))
	bound := s.know(s.write(t, "auth/approle/role/istiod/secret-id", map[string]any{"cidr_list": "192.0.2.0/24"}).Data["secret_id"].(string))
	revoked := s.secretID(t, "approle")
	s.write(t, "auth/approle/role/istiod/secret-id/destroy", map[string]any{"secret_id": revoked})
	cluster.Within(t, time.Minute, "the short secret id has expired", func() error {
		answer, err := s.vault.Client.Logical().WriteWithContext(t.Context(), "auth/approle/role/istiod/secret-id/lookup", map[string]any{"secret_id": short})
		if err == nil && answer != nil {
			return errLives
		}
		return nil
	})

	s.specify(t, "appRoleAuth", appRoleAuth(roleID, nil))
	for name, value := range map[string]string{"a secret id": secretID, "with a line break": secretID + "\n", "of one use": once} {
		t.Run(name, func(t *testing.T) {
			s.keep(t, map[string]string{"secret-id": value})
			s.issues(t)
		})
	}
	from := "Secret " + s.Namespace + "/" + secretName
	unknown := "it does not accept the role id or the secret id in " + from
	for name, test := range map[string]struct {
		change         map[string]any
		value          string
		reason, advice string
	}{
		"another role's":          {nil, other, "VaultNotAuthorized", unknown},
		"another role id":         {map[string]any{"roleId": "none"}, secretID, "VaultNotAuthorized", unknown},
		"expired":                 {nil, short, "VaultNotAuthorized", "expired, was revoked, used up or replaced"},
		"revoked":                 {nil, revoked, "VaultNotAuthorized", "put a new one there (vault write -f auth/approle/role/<role>/secret-id)"},
		"used up":                 {nil, once, "VaultNotAuthorized", unknown},
		"of another address":      {nil, bound, "VaultNotAuthorized", "secret_id_bound_cidrs"},
		"no such auth method":     {map[string]any{"mountPath": "/v1/auth/none"}, secretID, "VaultNotAuthorized", "no auth method of type approle is there"},
		"nothing":                 {nil, "", "TokenUnavailable", from + `: it has no key "secret-id"`},
		"a service account token": {nil, signedToken(t, s), "TokenUnavailable", "it is a JWT, such as a service account's token"},
		"a key":                   {nil, string(authority("a").KeyPEM()), "TokenUnavailable", "more than one word"},
		"too long":                {nil, strings.Repeat("a", 2000), "TokenUnavailable", "longer than 1024 bytes"},
		"a control character":     {nil, "a\x01b", "VaultBadConfiguration", "put a secret id into " + from},
	} {
		t.Run(name, func(t *testing.T) {
			s.keep(t, map[string]string{"secret-id": test.value})
			s.specify(t, "appRoleAuth", appRoleAuth(roleID, test.change))
			s.refused(t, test.reason, test.advice)
		})
	}
}

// A running agent uses the secret id that is in the Secret at each login.
func TestAppRoleRotation(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "approle", "approle")
	roleID, first := s.appRole(t, "approle", nil)
	s.keep(t, map[string]string{"secret-id": first})
	s.specify(t, "appRoleAuth", appRoleAuth(roleID, nil))
	s.sidecar(t)
	s.published(t)
	s.keep(t, map[string]string{"secret-id": s.secretID(t, "approle")})
	s.write(t, "auth/approle/role/istiod/secret-id/destroy", map[string]any{"secret_id": first})
	s.renews(t)
}

// The agent unwraps a wrapping token once, if the AppRole made it. One that was used already may mean an interception.
func TestAppRoleWrapped(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "approle", "approle")
	s.enable(t, "approle-other", "approle")
	roleID, secretID := s.appRole(t, "approle", nil)
	s.appRole(t, "approle-other", nil)
	const endpoint = "auth/approle/role/istiod/secret-id"
	s.specify(t, "appRoleAuth", appRoleAuth(roleID, map[string]any{"wrapped": true}))

	used := s.wrapped(t, endpoint, nil, "10m")
	_, err := s.vault.Client.Logical().UnwrapWithContext(t.Context(), used)
	must(t, err)
	expired := s.wrapped(t, endpoint, nil, "1s")
	cluster.Within(t, time.Minute, "the wrapping token has expired", func() error {
		if _, err := s.vault.Client.Logical().WriteWithContext(t.Context(), "sys/wrapping/lookup", map[string]any{"token": expired}); err == nil {
			return errLives
		}
		return nil
	})
	forged := s.wrapped(t, "sys/wrapping/wrap", map[string]any{"secret_id": secretID}, "10m")
	for name, test := range map[string]struct{ token, reason, advice string }{
		"used":                    {used, "VaultWrappingTokenUsed", "another party may have the secret id: revoke it"},
		"expired":                 {expired, "VaultWrappingTokenUsed", "was used already, or has expired"},
		"a secret id":             {secretID, "VaultWrappingTokenUsed", "Put a new wrapping token there"},
		"made by another":         {forged, "VaultWrappingTokenForeign", "was made by sys/wrapping/wrap; expected auth/approle/role/<role>/secret-id"},
		"of another AppRole":      {s.wrapped(t, "auth/approle-other/role/istiod/secret-id", nil, "10m"), "VaultWrappingTokenForeign", "was made by auth/approle-other/role/istiod/secret-id"},
		"of a token":              {s.wrapped(t, "auth/token/create", map[string]any{"policies": "default"}, "10m"), "VaultWrappingTokenForeign", "was made by auth/token/create"},
		"a service account token": {signedToken(t, s), "TokenUnavailable", "it is a JWT"},
	} {
		t.Run(name, func(t *testing.T) {
			s.keep(t, map[string]string{"secret-id": test.token})
			s.refused(t, test.reason, test.advice)
			if test.reason == "VaultWrappingTokenForeign" {
				if _, err := s.vault.Client.Logical().UnwrapWithContext(t.Context(), test.token); err != nil {
					t.Errorf("a foreign wrapping token was unwrapped: %v", err)
				}
			}
		})
	}

	t.Run("the init container hands over to the sidecar", func(t *testing.T) {
		s.keep(t, map[string]string{"secret-id": s.wrapped(t, endpoint, nil, "10m")})
		s.issues(t)
		s.sidecar(t)
		s.renews(t) // with the secret id of the same, used wrapping token
		s.keep(t, map[string]string{"secret-id": s.wrapped(t, endpoint, nil, "10m")})
		s.renews(t) // with that of the new one
	})
}

var errLives = errors.New("it is still valid")

// signedToken is a JWT of istiod's service account.
func signedToken(t *testing.T, s *setting) string {
	t.Helper()
	return s.know(signed(t, testca.NewKey(), map[string]any{"iss": "https://kubernetes.default.svc", "sub": s.subject(), "aud": "vault"}))
}
