// SPDX-License-Identifier: Apache-2.0

package logins

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// clientCertificate signs a client certificate for istiod, valid between two times from now.
func (s *setting) clientCertificate(t *testing.T, of *testca.Certificate, starts, ends time.Duration) *testca.Certificate {
	t.Helper()
	id, err := url.Parse("spiffe://cluster.local/ns/" + s.Namespace + "/sa/" + agents.ServiceAccount)
	must(t, err)
	return of.Sign(x509.Certificate{
		Subject: pkix.Name{CommonName: "istiod"}, URIs: []*url.URL{id},
		NotBefore: time.Now().Add(starts), NotAfter: time.Now().Add(ends),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, testca.NewKey())
}

// pair are the values of a kubernetes.io/tls Secret.
func (s *setting) pair(c *testca.Certificate) map[string]string {
	return map[string]string{"tls.crt": string(c.PEM()), "tls.key": s.know(string(c.KeyPEM()))}
}

// authority is a CA of client certificates.
func authority(name string) *testca.Certificate {
	template := testca.Authority(name)
	template.KeyUsage |= x509.KeyUsageCRLSign
	template.NotBefore, template.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(24*time.Hour)
	return testca.SelfSign(template, nil)
}

func (s *setting) certRole(t *testing.T, path string, of *testca.Certificate, names string) {
	t.Helper()
	s.write(t, path, map[string]any{
		"certificate": string(of.PEM()), "allowed_uri_sans": names,
		"token_policies": policy, "token_ttl": "10m", "token_max_ttl": "10m",
	})
}

func TestCertificate(t *testing.T) {
	s := newSetting(t)
	trusted, other := authority("clients"), authority("others")
	s.enable(t, "cert", "cert")
	s.certRole(t, "auth/cert/certs/istiod", trusted, "spiffe://cluster.local/ns/"+s.Namespace+"/sa/"+agents.ServiceAccount)
	s.certRole(t, "auth/cert/certs/another-name", trusted, "spiffe://cluster.local/ns/other/sa/istiod")
	s.enable(t, "cert-other", "cert")
	s.certRole(t, "auth/cert-other/certs/istiod", other, "")
	good := s.clientCertificate(t, trusted, -time.Hour, time.Hour)
	from := "Secret " + s.Namespace + "/" + secretName
	login := func(changes map[string]any) map[string]any {
		auth := map[string]any{"role": "istiod", "certSecretRef": map[string]any{"name": secretName}}
		maps.Copy(auth, changes)
		return auth
	}
	s.keep(t, s.pair(good))
	for name, changes := range map[string]map[string]any{"a role": nil, "any role": {"role": nil}} {
		t.Run(name, func(t *testing.T) {
			auth := login(changes)
			if auth["role"] == nil {
				delete(auth, "role")
			}
			s.specify(t, "certAuth", auth)
			s.issues(t)
		})
	}
	for name, test := range map[string]struct {
		change         map[string]any
		values         map[string]string
		reason, advice string
	}{
		"no such role":        {map[string]any{"role": "none"}, s.pair(good), "VaultNotAuthorized", "no role of auth/cert accepts the client certificate in " + from},
		"another name":        {map[string]any{"role": "another-name"}, s.pair(good), "VaultNotAuthorized", "correct the role (certAuth.role)"},
		"of another CA":       {nil, s.pair(s.clientCertificate(t, other, -time.Hour, time.Hour)), "VaultNotAuthorized", `it was issued by "O=others`},
		"another mount's CA":  {map[string]any{"mountPath": "/v1/auth/cert-other"}, s.pair(good), "VaultNotAuthorized", "no role of auth/cert-other accepts"},
		"expired":             {nil, s.pair(s.clientCertificate(t, trusted, -2*time.Hour, -time.Hour)), "VaultClientCertificateExpired", "the client certificate in " + from + " expired at "},
		"not valid yet":       {nil, s.pair(s.clientCertificate(t, trusted, time.Hour, 2*time.Hour)), "VaultClockDiffers", "is not valid before"},
		"no such auth method": {map[string]any{"mountPath": "/v1/auth/none"}, s.pair(good), "VaultNotAuthorized", "no auth method of type cert is there"},
		"no key":              {nil, map[string]string{"tls.crt": string(good.PEM())}, "TokenUnavailable", `the key of the client certificate from ` + from + `: it has no key "tls.key"`},
		"another key":         {nil, map[string]string{"tls.crt": string(good.PEM()), "tls.key": string(trusted.KeyPEM())}, "TokenUnavailable", "its own key in tls.key"},
		"no PEM":              {nil, map[string]string{"tls.crt": "hvs.password", "tls.key": "password"}, "TokenUnavailable", "expected a certificate in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			s.keep(t, test.values)
			s.specify(t, "certAuth", login(test.change))
			s.refused(t, test.reason, test.advice)
		})
	}
}

// A revoked certificate is refused, and the agent continues with another one.
func TestCertificateRevoked(t *testing.T) {
	s := newSetting(t)
	trusted := authority("clients")
	s.enable(t, "cert", "cert")
	s.certRole(t, "auth/cert/certs/istiod", trusted, "")
	s.specify(t, "certAuth", map[string]any{"role": "istiod", "certSecretRef": map[string]any{"name": secretName}})
	first := s.clientCertificate(t, trusted, -time.Hour, time.Hour)
	s.keep(t, s.pair(first))
	s.issues(t)
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: first.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)}},
	}, trusted.Certificate, trusted.Key)
	must(t, err)
	s.write(t, "auth/cert/crls/clients", map[string]any{"crl": string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}))})
	s.refused(t, "VaultNotAuthorized", "the client certificate in Secret "+s.Namespace+"/"+secretName)
	s.keep(t, s.pair(s.clientCertificate(t, trusted, -time.Hour, time.Hour)))
	s.issues(t)
}

// A running agent uses the certificate that is in the Secret at each login.
func TestCertificateRotation(t *testing.T) {
	s := newSetting(t)
	trusted := authority("clients")
	s.enable(t, "cert", "cert")
	s.certRole(t, "auth/cert/certs/istiod", trusted, "")
	s.specify(t, "certAuth", map[string]any{"role": "istiod", "certSecretRef": map[string]any{"name": secretName}})
	first := s.clientCertificate(t, trusted, -time.Hour, time.Hour)
	s.keep(t, s.pair(first))
	s.sidecar(t)
	s.published(t)
	// The CA of the first one is no longer trusted: only another certificate can log in.
	next := authority("next clients")
	s.certRole(t, "auth/cert/certs/istiod", next, "")
	s.keep(t, s.pair(s.clientCertificate(t, next, -time.Hour, time.Hour)))
	s.renews(t)
}

// Vault's CA can come from a Secret, under either name, and from a file. Whatever else is there is not used, and not shown.
func TestServerCA(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "approle", "approle")
	roleID, secretID := s.appRole(t, "approle", nil)
	serverCA := string(s.vault.CA)
	values := func(key, bundle string) map[string]string {
		return map[string]string{"secret-id": secretID, key: bundle}
	}
	from := "reading the CA of Vault's server from Secret " + s.Namespace + "/" + secretName + ": "
	for name, test := range map[string]struct {
		key            string // of the reference
		values         map[string]string
		reason, advice string
	}{
		"root-cert.pem":  {"", values("root-cert.pem", serverCA), "", ""},
		"ca.crt":         {"", values("ca.crt", serverCA), "", ""},
		"a key":          {"bundle", values("bundle", serverCA), "", ""},
		"no key":         {"", values("other", serverCA), "VaultCAUnavailable", from + `it has no key "root-cert.pem" or "ca.crt"`},
		"no certificate": {"secret-id", values("ca.crt", serverCA), "VaultCAUnavailable", from + "it contains no certificate"},
		"a private key":  {"key", values("key", string(testca.Root("a").KeyPEM())), "VaultCAUnavailable", "block 1 is a private key"},
		"too long":       {"", values("ca.crt", strings.Repeat(serverCA, 1+certificatesv1.MaxCABundle/len(serverCA))), "VaultCAUnavailable", "expected at most"},
		"another one":    {"", values("ca.crt", string(testca.Root("another").PEM())), "VaultTLS", "is not trusted"},
	} {
		t.Run(name, func(t *testing.T) {
			s.keep(t, test.values)
			s.specify(t, "appRoleAuth", map[string]any{"roleId": roleID, "secretIdSecretRef": map[string]any{"name": secretName}}, func(vault map[string]any) {
				delete(vault, "caBundle")
				ref := map[string]any{"name": secretName}
				if test.key != "" {
					ref["key"] = test.key
				}
				vault["caSecretRef"] = ref
			})
			if test.reason == "" {
				s.issues(t)
				return
			}
			s.refused(t, test.reason, test.advice)
		})
	}
}

// The files that a specification may name are below two directories of istiod's Pod.
func TestFiles(t *testing.T) {
	s := newSetting(t)
	s.enable(t, "approle", "approle")
	s.enable(t, "cert", "cert")
	roleID, secretID := s.appRole(t, "approle", nil)
	trusted := authority("clients")
	s.certRole(t, "auth/cert/certs/istiod", trusted, "")
	root := t.TempDir() // in place of certificatesv1.TokenRoot
	place := func(name, content string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o600))
	}
	place("istiod-agent.io/approle/secret-id", secretID+"\n")
	pair := s.pair(s.clientCertificate(t, trusted, -time.Hour, time.Hour))
	place("istiod-agent.io/cert/tls.crt", pair["tls.crt"])
	place("istiod-agent.io/cert/tls.key", pair["tls.key"])
	place("istiod-agent.io/vault/token", signed(t, testca.NewKey(), map[string]any{"iss": "a", "sub": s.subject(), "aud": "vault"}))
	place("istiod-agent.io/key", pair["tls.key"])
	place("kubernetes.io/serviceaccount/ca.crt", string(s.vault.CA))
	place("others/password", "password")
	must(t, os.Symlink("../../others/password", filepath.Join(root, "istiod-agent.io", "approle", "link")))

	const run, own = certificatesv1.TokenRoot, certificatesv1.CredentialRoot
	appRole := func(path string) *certificatesv1.VaultCA {
		return &certificatesv1.VaultCA{AppRoleAuth: &certificatesv1.AppRoleAuth{RoleID: roleID, SecretIDLocalPath: path}}
	}
	with := func(v *certificatesv1.VaultCA, path string) *certificatesv1.VaultCA { v.CALocalPath = path; return v }
	const caFile = run + "/kubernetes.io/serviceaccount/ca.crt"
	for name, test := range map[string]struct {
		spec   *certificatesv1.VaultCA
		reason string
		says   string
	}{
		"a secret id":                 {with(appRole(own+"/approle/secret-id"), caFile), "", ""},
		"a client certificate":        {with(&certificatesv1.VaultCA{CertAuth: &certificatesv1.CertAuth{CertLocalPath: own + "/cert"}}, caFile), "", ""},
		"a service account token":     {with(appRole(own+"/vault/token"), caFile), ca.TokenUnavailable, "it is a JWT"},
		"a key":                       {with(appRole(own+"/key"), caFile), ca.TokenUnavailable, "more than one word"},
		"a file of another directory": {with(appRole(run+"/others/password"), caFile), ca.TokenUnavailable, "expected a file below " + own},
		"a link to another directory": {with(appRole(own+"/approle/link"), caFile), ca.TokenUnavailable, "a symbolic link leads out"},
		"a path that climbs":          {with(appRole(own+"/../others/password"), caFile), ca.TokenUnavailable, "expected a file below " + own},
		"a CA elsewhere":              {with(appRole(own+"/approle/secret-id"), "/etc/cacerts/root-cert.pem"), vault.CAUnavailable, "expected a file below " + run},
		"no CA":                       {with(appRole(own+"/approle/secret-id"), run+"/others/none"), vault.CAUnavailable, "no such file"},
		"a CA that is a password":     {with(appRole(own+"/approle/secret-id"), run+"/others/password"), vault.CAUnavailable, "it contains no certificate"},
		"a CA that is a directory":    {with(appRole(own+"/approle/secret-id"), run+"/others"), vault.CAUnavailable, "expected a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			test.spec.Server, test.spec.CAPath = s.vault.Address, "pki/root/sign-intermediate"
			test.spec.SetDefaults()
			source, errs := vault.New(vault.Options{
				Namespace: s.Namespace, ServiceAccount: agents.ServiceAccount, Tokens: vault.Tokens{Root: root},
				Observe: func(string, time.Duration) {},
			}, test.spec)
			must(t, errs.ToAggregate())
			answer, err := source.Issue(t.Context(), ca.Request{
				Hosts: []string{"spiffe://cluster.local/ns/a/sa/b"}, Organization: "Istio", TTL: time.Hour, Key: cacerts.Key{Type: "ec", Bits: 256},
			})
			clear(answer.Issued.Key)
			if answer.Tidy != nil {
				for _, leftover := range answer.Tidy(context.WithoutCancel(t.Context())) {
					t.Error(leftover)
				}
			}
			if err != nil {
				s.wrote(err.Error())
			}
			if ca.ReasonOf(err) != test.reason || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("want %s and %q, got %v", test.reason, test.says, err)
			}
			if err != nil && strings.Contains(strings.ReplaceAll(err.Error(), "/password", ""), "password") {
				t.Error("the error quotes the file")
			}
		})
	}
}
