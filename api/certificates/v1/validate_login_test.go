// SPDX-License-Identifier: Apache-2.0

package v1_test

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

func TestLogins(t *testing.T) {
	t.Parallel()
	type (
		vault   = certificatesv1.VaultCA
		jwt     = certificatesv1.JWTAuth
		appRole = certificatesv1.AppRoleAuth
		cert    = certificatesv1.CertAuth
		ref     = certificatesv1.ObjectRef
		keyRef  = certificatesv1.SecretKeyRef
	)
	const (
		run  = "/var/run/secrets/"
		own  = run + "istiod-agent.io/"
		role = "vault.appRoleAuth."
	)
	endless := strings.Repeat("a", 2000)
	secret := &keyRef{Name: "vault-login"}
	byJWT := func(a jwt) vault { return vault{JWTAuth: &a} }
	byRole := func(a appRole) vault { return vault{AppRoleAuth: &a} }
	byCert := func(a cert) vault { return vault{CertAuth: &a} }
	with := func(change func(*vault)) vault {
		v := byCert(cert{CertSecretRef: &ref{Name: "a"}})
		change(&v)
		return v
	}
	bundle := testca.Root("a").PEM()
	for name, test := range map[string]struct {
		vault vault
		want  []string
	}{
		"JWT":                           {byJWT(jwt{Role: "istiod", Audience: "vault"}), nil},
		"JWT at another mount":          {byJWT(jwt{Role: "istiod", Audience: "vault", MountPath: "auth/eu/jwt", ServiceAccountRef: &ref{Name: "istiod"}}), nil},
		"JWT without anything":          {byJWT(jwt{}), []string{"vault.jwtAuth.role: Required value: expected the name of a role of Vault's JWT", "vault.jwtAuth.audience: Required value"}},
		"JWT of several audiences":      {byJWT(jwt{Role: "a", Audience: "vault other"}), []string{"vault.jwtAuth.audience: Invalid value"}},
		"JWT of a file elsewhere":       {byJWT(jwt{Role: "a", Audience: "vault", MountedSAPath: "/etc/cacerts"}), []string{"vault.jwtAuth.mountedSaPath: Invalid value"}},
		"JWT of two sources":            {byJWT(jwt{Role: "a", Audience: "vault", MountedSAPath: run + "a", ServiceAccountRef: &ref{Name: "a"}}), []string{"vault.jwtAuth.mountedSaPath: Forbidden"}},
		"JWT that is endless":           {byJWT(jwt{Role: endless, Audience: endless, MountPath: endless}), []string{"vault.jwtAuth.mountPath: Too long", "vault.jwtAuth.role: Too long", "vault.jwtAuth.audience: Too long"}},
		"AppRole":                       {byRole(appRole{RoleID: "a", SecretIDSecretRef: secret}), nil},
		"AppRole of a file":             {byRole(appRole{RoleID: "a", SecretIDLocalPath: own + "approle/secret-id", Wrapped: true}), nil},
		"AppRole without anything":      {byRole(appRole{}), []string{role + "roleId: Required value", role + "secretIdSecretRef: Required value: expected secretIdSecretRef or secretIdLocalPath"}},
		"AppRole of two sources":        {byRole(appRole{RoleID: "a", SecretIDSecretRef: secret, SecretIDLocalPath: own + "a"}), []string{role + "secretIdLocalPath: Forbidden"}},
		"AppRole of others' files":      {byRole(appRole{RoleID: "a", SecretIDLocalPath: run + "others/password"}), []string{role + "secretIdLocalPath: Invalid value: \"/var/run/secrets/others/password\": expected the absolute path of a file below /var/run/secrets/istiod-agent.io"}},
		"AppRole of a path that climbs": {byRole(appRole{RoleID: "a", SecretIDLocalPath: own + "../../../../etc/cacerts/ca-key.pem"}), []string{role + "secretIdLocalPath: Invalid value"}},
		"AppRole of the directory":      {byRole(appRole{RoleID: "a", SecretIDLocalPath: strings.TrimSuffix(own, "/")}), []string{role + "secretIdLocalPath: Invalid value"}},
		"AppRole of several words":      {byRole(appRole{RoleID: "a b", SecretIDSecretRef: secret}), []string{role + "roleId: Invalid value: expected printable"}},
		"AppRole of a key that is none": {byRole(appRole{RoleID: "a", SecretIDSecretRef: &keyRef{Name: "A", Namespace: "b.c", Key: "d/e"}}), []string{role + "secretIdSecretRef.name: Invalid value", role + "secretIdSecretRef.namespace: Invalid value", role + "secretIdSecretRef.key: Invalid value"}},
		"AppRole that is endless":       {byRole(appRole{RoleID: endless, SecretIDSecretRef: &keyRef{Name: endless, Key: endless}}), []string{role + "roleId: Too long", role + "secretIdSecretRef.name: Too long", role + "secretIdSecretRef.key: Too long"}},
		"certificate":                   {byCert(cert{Role: "a", CertSecretRef: &ref{Name: "a"}}), nil},
		"certificate of files":          {byCert(cert{CertLocalPath: own + "cert/"}), nil},
		"certificate from nowhere":      {byCert(cert{}), []string{"vault.certAuth.certSecretRef: Required value: expected certSecretRef or certLocalPath"}},
		"certificate of two places":     {byCert(cert{CertSecretRef: &ref{Name: "a"}, CertLocalPath: own + "a"}), []string{"vault.certAuth.certLocalPath: Forbidden"}},
		"certificate of others":         {byCert(cert{CertLocalPath: run + "others"}), []string{"vault.certAuth.certLocalPath: Invalid value"}},
		"certificate of a bad role":     {byCert(cert{Role: "a/b", CertSecretRef: &ref{}}), []string{"vault.certAuth.role: Invalid value", "vault.certAuth.certSecretRef.name: Required value"}},
		"certificate without TLS":       {with(func(v *vault) { v.Server = "http://vault" }), []string{"vault.certAuth: Forbidden: expected none with an http:// server"}},
		"two logins":                    {with(func(v *vault) { v.AppRoleAuth = &appRole{RoleID: "a", SecretIDSecretRef: secret} }), []string{"vault.certAuth: Forbidden: expected none together with appRoleAuth"}},
		"a CA in a Secret":              {with(func(v *vault) { v.CASecretRef = &keyRef{Name: "a"} }), nil},
		"a CA in a file":                {with(func(v *vault) { v.CALocalPath = run + "kubernetes.io/serviceaccount/ca.crt" }), nil},
		"a CA in a file elsewhere":      {with(func(v *vault) { v.CALocalPath = "/proc/self/environ" }), []string{"vault.caLocalPath: Invalid value: \"/proc/self/environ\": expected the absolute path of a file below /var/run/secrets"}},
		"a CA in a Secret unnamed":      {with(func(v *vault) { v.CASecretRef = &keyRef{} }), []string{"vault.caSecretRef.name: Required value"}},
		"a CA in three places": {with(func(v *vault) { v.CABundle, v.CASecretRef, v.CALocalPath = bundle, &keyRef{Name: "a"}, run+"a" }), []string{
			"vault.caSecretRef: Forbidden: expected none together with caBundle", "vault.caLocalPath: Forbidden: expected none together with caBundle",
		}},
		"a CA in a Secret and a file": {with(func(v *vault) { v.CASecretRef, v.CALocalPath = &keyRef{Name: "a"}, run+"a" }), []string{"vault.caLocalPath: Forbidden: expected none together with caSecretRef"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := test.vault
			spec.CAPath = "pki/root/sign-intermediate"
			if spec.Server == "" {
				spec.Server = "https://vault:8200"
			}
			spec.SetDefaults()
			_, errs := spec.Validate(field.NewPath("vault"))
			for _, want := range test.want {
				if !slices.ContainsFunc(errs, func(err *field.Error) bool { return strings.HasPrefix(err.Error(), want) }) {
					t.Errorf("nothing begins with %s", want)
				}
			}
			if len(errs) != len(test.want) {
				t.Errorf("want %d mistakes, got %v", len(test.want), errs)
			}
		})
	}
}

// Defaults are the mounts and keys that Vault and its guides use.
func TestLoginDefaults(t *testing.T) {
	t.Parallel()
	spec := certificatesv1.VaultCA{
		JWTAuth: &certificatesv1.JWTAuth{}, CertAuth: &certificatesv1.CertAuth{},
		AppRoleAuth: &certificatesv1.AppRoleAuth{SecretIDSecretRef: &certificatesv1.SecretKeyRef{}},
	}
	spec.SetDefaults()
	for got, want := range map[string]string{
		spec.JWTAuth.MountPath: "/v1/auth/jwt", spec.CertAuth.MountPath: "/v1/auth/cert", spec.AppRoleAuth.MountPath: "/v1/auth/approle",
		spec.AppRoleAuth.SecretIDSecretRef.Key: "secret-id", spec.JWTAuth.SecretTokenKey: "token",
		spec.JWTAuth.MountedSAPath: "/var/run/secrets/kubernetes.io/serviceaccount",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
