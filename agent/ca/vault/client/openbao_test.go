// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// The answers of OpenBao 2.6.2 where they differ from Vault's, made by hand from its source: no OpenBao was run. The cases are
// the rows of docs/compatibility.md.
const (
	// http/logical.go and sdk/logical/response_util.go: an unknown token is an unauthorized one (vault/request_handling.go,
	// fetchACLTokenEntryAndEntity).
	openBaoDenied = `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`
	// vault/request_handling.go, switchedLockHandleRequest.
	openBaoNoNamespace     = `{"errors":["namespace not found"]}`
	openBaoSealedNamespace = `{"errors":["namespace is sealed"]}`
	openBaoLockedNamespace = `{"errors":["API access to this namespace has been locked by an administrator - \"team/\" must be unlocked to gain access."]}`
	// http/handler.go, forwardRequest and respondStandby.
	openBaoNoActive  = `{"errors":["no active Vault instance found"]}`
	openBaoNoForward = `{"errors":["local node not active but active cluster node not found"]}`
	// http/sys_health.go.
	openBaoStandby = `{"initialized":true,"sealed":false,"standby":true,"replication_performance_mode":"disabled","replication_dr_mode":"disabled","server_time_utc":1,"version":"2.6.2"}`
	openBaoSealed  = `{"initialized":true,"sealed":true,"standby":true,"replication_performance_mode":"unknown","replication_dr_mode":"unknown","server_time_utc":1,"version":"2.6.2"}`
	openBaoNew     = `{"initialized":false,"sealed":true,"standby":true,"replication_performance_mode":"unknown","replication_dr_mode":"unknown","server_time_utc":1,"version":"2.6.2"}`

	// Warnings of builtin/logical/pki/path_root.go, pathIssuerSignIntermediate, and of sdk/framework/backend.go.
	openBaoPastSigner = "The expiration time for the signed certificate is after the CA's expiration time. If the new certificate is not treated as a root, validation paths with the certificate past the issuing CA's expiration time will fail."
	openBaoIgnored    = "Endpoint ignored these unrecognized parameters: [permitted_uri_domains]"
	openBaoAIA        = "This mount hasn't configured any authority information access (AIA) fields; this may make it harder for systems to find missing certificates in the chain or to validate revocation status of certificates."
	openBaoZero       = "Max path length of the signed certificate is zero. This certificate cannot be used to issue intermediate CA certificates."
)

func TestOpenBaoRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		endpoint string
		answer   recorded
		kept     bool // the token is kept in a Secret
		kind     Kind
		says     string
		not      string
	}{
		"an unknown token":         {signEndpoint, recorded{403, "", jsonType, openBaoDenied}, true, PolicyDenies, "or put a new token there if it has expired", "role"},
		"no such namespace":        {loginEndpoint, recorded{404, "", jsonType, openBaoNoNamespace}, false, PathMissing, "correct the namespace in the specification", "enable the secrets engine"},
		"a sealed namespace":       {loginEndpoint, recorded{503, "", jsonType, openBaoSealedNamespace}, false, Sealed, "bao namespace unseal", "operator unseal"},
		"a locked namespace":       {signEndpoint, recorded{503, "", jsonType, openBaoLockedNamespace}, false, Unreachable, "an administrator has locked the namespace", "network policies"},
		"no active server":         {signEndpoint, recorded{503, "", jsonType, openBaoNoActive}, false, Unreachable, "a standby without an active Vault", "network policies"},
		"no active server to ask":  {signEndpoint, recorded{500, "", jsonType, openBaoNoForward}, false, Unreachable, "a standby without an active Vault", ""},
		"a standby's health":       {signEndpoint, recorded{429, "", jsonType, openBaoStandby}, false, Unreachable, "a standby that does not forward (429)", "rate limit"},
		"a sealed server's health": {loginEndpoint, recorded{503, "", jsonType, openBaoSealed}, false, Sealed, "it is sealed", ""},
		"a new server's health":    {loginEndpoint, recorded{501, "", jsonType, openBaoNew}, false, Unreachable, "it is not initialized", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t, func(w http.ResponseWriter, r *http.Request) {
				if test.endpoint != loginEndpoint && r.URL.Path == "/v1/auth/kubernetes/login" {
					_, _ = io.WriteString(w, `{"auth":{"client_token":"s.ownownownownownownownown"}}`)
					return
				}
				test.answer.ServeHTTP(w, r)
			}, nil)
			config := configuration(server.URL)
			if test.kept {
				config = tokenConfiguration(server.URL)
				config.TokenFrom = "Secret istio-system/vault-token"
			}
			sentence(t, try(t.Context(), config, test.endpoint), test.kind, test.says, test.not)
		})
	}
}

// A login whose uses are up looks like one without the right; the client has counted the uses.
func TestOpenBaoUsedLogin(t *testing.T) {
	answers := with(loginEndpoint, 200, `{"auth":{"client_token":"s.ownownownownownownownown","num_uses":1,"token_type":"service"}}`)
	server := serve(t, answers)
	session := login(t, configuration(server.URL))
	if _, err := session.Generate(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	answers[signEndpoint] = reply{403, openBaoDenied}
	_, err := session.Sign(t.Context(), []byte("a request"), request)
	expect(t, err, NotAuthorized, "allows 1 calls (token_num_uses)")
}

// OpenBao signs past its signer's end, and knows no parameter for name constraints of URIs. It warns of both, and people see that.
func TestOpenBaoWarnings(t *testing.T) {
	limited := request
	limited.PermittedURIDomains = []string{"cluster.local"}
	warnings := strings.Join([]string{quoted(openBaoPastSigner), quoted(openBaoIgnored), quoted(openBaoAIA), quoted(openBaoZero)}, ",")
	server := serve(t, with(signEndpoint, 200, `{"data":{"certificate":"a certificate","issuing_ca":"an issuer","ca_chain":["one","two"]},"warnings":[`+warnings+`]}`))
	signed, err := login(t, configuration(server.URL)).Sign(t.Context(), []byte("a request"), limited)
	if err != nil {
		t.Fatal(err)
	}
	if len(signed.Warnings) != 2 || !strings.HasPrefix(signed.Warnings[0], "The expiration time for the signed certificate is after") || signed.Warnings[1] != openBaoIgnored {
		t.Errorf("warned of %q", signed.Warnings)
	}
}

// Its auth method for certificates refuses in other words than Vault's (builtin/credential/cert/path_login.go); those of the others
// are Vault's.
func TestOpenBaoLogins(t *testing.T) {
	shown := testca.Root("clients").Sign(x509.Certificate{Subject: pkix.Name{CommonName: "istiod"}, NotAfter: time.Now().Add(time.Hour)}, nil)
	withCertificate := func(config *Config) {
		config.Cert = &CertAuth{MountPath: "auth/cert", Role: "istiod", From: "Secret istio-system/vault-client", Certificate: func(context.Context) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{shown.Raw}, PrivateKey: shown.Key, Leaf: shown.Certificate}, nil
		}}
	}
	withSecretID := func(config *Config) {
		config.AppRole = &AppRoleAuth{MountPath: "auth/approle", RoleID: "a-role", From: "Secret istio-system/vault-approle", SecretID: given("a-secret-id")}
	}
	withJWT := func(config *Config) {
		config.JWT = &KubernetesAuth{MountPath: "auth/jwt", Role: "istiod", JWT: given("a.service.account.token")}
	}
	for name, test := range map[string]struct {
		login func(*Config)
		text  string
		kind  Kind
		says  string
	}{
		"a certificate of another CA":     {withCertificate, "invalid certificate or no client certificate supplied", NotAuthorized, "no role of auth/cert accepts the client certificate in Secret istio-system/vault-client"},
		"a certificate of other names":    {withCertificate, "no chain matching all constraints could be found for this login certificate", NotAuthorized, "no role of auth/cert accepts the client certificate"},
		"a certificate of no role":        {withCertificate, "no certificate was matched by this request", NotAuthorized, "no role of auth/cert accepts the client certificate"},
		"a certificate that did not come": {withCertificate, "no client certificate found", NotAuthorized, "Vault has not received the client certificate"},
		"a listener without TLS":          {withCertificate, "tls connection not found", NotAuthorized, "Vault's listener has no TLS"},
		"another secret id":               {withSecretID, "invalid role or secret ID", NotAuthorized, "it does not accept the role id or the secret id in Secret istio-system/vault-approle"},
		"another JWT role":                {withJWT, `role "istiod" could not be found`, RoleUnknown, "auth/jwt knows no role"},
		"a JWT without bound audiences":   {withJWT, "audience claim found in JWT but no audiences bound to the role", NotAuthorized, "has no bound_audiences"},
	} {
		t.Run(name, func(t *testing.T) {
			server := start(t, recorded{400, "", jsonType, `{"errors":[` + quoted(test.text) + `]}`}.ServeHTTP, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{serverCertificate()}})
			config := configuration(server.URL)
			config.Kubernetes, config.CABundle = nil, serverCA.PEM()
			test.login(&config)
			expect(t, try(t.Context(), config, loginEndpoint), test.kind, test.says)
		})
	}
}

var serverCA = testca.Root("servers")

func serverCertificate() tls.Certificate {
	leaf := serverCA.Sign(x509.Certificate{Subject: pkix.Name{CommonName: "vault"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour)}, nil)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: leaf.Key}
}

// Its tokens, namespaces' among them, are never repeated in a message.
func TestOpenBaoTokens(t *testing.T) {
	for _, token := range []string{"s.A1b2C3d4E5f6G7h8I9j0K1l2", "b.AAAAAQIkexample", "s.A1b2C3d4E5f6G7h8I9j0K1l2.nsId01"} {
		if words, ok := quotable("no such token " + token); ok {
			t.Errorf("quotes %q", words)
		}
		if !sendable(token) {
			t.Errorf("%s is not sent", token)
		}
	}
}

// Its answers to lookups and renewals of a token have Vault's form (vault/token_store.go, handleLookup).
func TestOpenBaoTokenLookup(t *testing.T) {
	answers := with("GET /v1/auth/token/lookup-self", 200, `{"data":{"accessor":"a","creation_time":1,"creation_ttl":3600,"expire_time":"2030-01-02T03:04:05.678Z","explicit_max_ttl":0,`+
		`"id":"s.ownownownownownownownown","identity_policies":null,"issue_time":"2030-01-02T02:04:05.678Z","namespace_path":"team/","num_uses":0,"orphan":true,"renewable":true,"ttl":1800,"type":"service"}}`)
	answers["PUT /v1/auth/token/renew-self"] = reply{200, `{"auth":{"client_token":"s.ownownownownownownownown","lease_duration":3600,"renewable":true}}`}
	server := serve(t, answers)
	session := login(t, tokenConfiguration(server.URL))
	token, err := session.LookupToken(t.Context())
	if err != nil || token.TTL.Minutes() != 30 || token.Life.Hours() != 1 || !token.Renewable || token.Batch || token.Uses != 0 || token.Expires.IsZero() {
		t.Errorf("got %+v, %v", token, err)
	}
	if ttl, err := session.RenewToken(t.Context()); err != nil || ttl.Hours() != 1 {
		t.Errorf("renewed for %s, %v", ttl, err)
	}
	if err := session.Close(t.Context()); err != nil || slices.Contains(server.endpoints(), revokeEndpoint) {
		t.Errorf("%v, called %q", err, server.endpoints())
	}
}
