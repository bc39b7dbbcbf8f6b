// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/vault/api"
)

// KubernetesAuth logs in with a service account's token, by the auth method kubernetes or jwt.
type KubernetesAuth struct {
	MountPath, Role string
	// JWT returns the token, for each login anew.
	JWT func(context.Context) (string, error)
}

// AppRoleAuth logs in with a role id and a secret id.
type AppRoleAuth struct {
	MountPath, RoleID string
	// SecretID returns the secret id, for each login anew. With Unwrapped, it returns a wrapping token of one.
	SecretID func(context.Context) (string, error)
	// From is the source of SecretID for messages, such as Secret istio-system/vault-approle.
	From string
	// Unwrapped keeps the secret id of the wrapping token; nil where SecretID returns the secret id itself.
	Unwrapped *Unwrapped
}

// CertAuth logs in with a TLS client certificate.
type CertAuth struct {
	MountPath string
	// Role is the name of Vault's role, empty for any that trusts the certificate.
	Role string
	// Certificate returns the certificate with its key and parsed Leaf, for each login anew.
	Certificate func(context.Context) (*tls.Certificate, error)
	// From is the source of Certificate for messages.
	From string
}

// authMethod is the auth method that a configuration logs in by. Its zero value is a token from elsewhere.
type authMethod struct {
	// name is the type of the auth method, as Vault calls it; field the specification's.
	name, field     string
	mountPath, role string
}

func (c Config) method() authMethod {
	switch {
	case c.Kubernetes != nil:
		return authMethod{"kubernetes", "kubernetesAuth", c.Kubernetes.MountPath, c.Kubernetes.Role}
	case c.JWT != nil:
		return authMethod{"jwt", "jwtAuth", c.JWT.MountPath, c.JWT.Role}
	case c.AppRole != nil:
		return authMethod{"approle", "appRoleAuth", c.AppRole.MountPath, ""}
	case c.Cert != nil:
		return authMethod{"cert", "certAuth", c.Cert.MountPath, c.Cert.Role}
	}
	return authMethod{}
}

// ways counts the ways to log in.
func (c Config) ways() (n int) {
	for _, set := range []bool{c.Kubernetes != nil, c.JWT != nil, c.AppRole != nil, c.Cert != nil, c.Token != nil} {
		if set {
			n++
		}
	}
	return n
}

// credentials returns the parameters of a login's request, and the secrets in them, which no message may contain.
func (s *Session) credentials(ctx context.Context) (parameters map[string]any, err error) {
	config := s.client.config
	switch {
	case config.AppRole != nil:
		secretID, err := s.secretID(ctx, config.AppRole)
		if err != nil {
			return nil, err
		}
		s.sent = append(s.sent, secretID)
		return map[string]any{"role_id": config.AppRole.RoleID, "secret_id": secretID}, nil
	case config.Cert != nil:
		certificate, err := config.Cert.Certificate(ctx)
		if err != nil {
			return nil, err
		}
		s.client.transport.CloseIdleConnections() // which may show another certificate
		s.client.certificate.Store(certificate)
		if config.Cert.Role == "" {
			return map[string]any{}, nil
		}
		return map[string]any{"name": config.Cert.Role}, nil
	}
	auth := config.Kubernetes
	if auth == nil {
		auth = config.JWT
	}
	jwt, err := auth.JWT(ctx)
	if err != nil {
		return nil, err
	}
	s.sent = append(s.sent, jwt)
	return map[string]any{"role": auth.Role, "jwt": jwt}, nil
}

// withoutSecrets returns an error of Vault's without what was sent: some of Vault's errors quote it.
func (s *Session) withoutSecrets(answer *api.ResponseError) *api.ResponseError {
	if answer == nil || len(s.sent) == 0 {
		return answer
	}
	clean := *answer
	clean.Errors = slices.Clone(answer.Errors)
	for i := range clean.Errors {
		for _, secret := range s.sent {
			if secret != "" {
				clean.Errors[i] = strings.ReplaceAll(clean.Errors[i], secret, "…")
			}
		}
	}
	return &clean
}

// MaxSecretID bounds a secret id. Vault makes them of 36 characters; custom ones are chosen by people.
const MaxSecretID = 1024

// secretID returns the secret id, unwrapped where that is necessary.
func (s *Session) secretID(ctx context.Context, auth *AppRoleAuth) (string, error) {
	value, err := auth.SecretID(ctx)
	if err != nil {
		return "", err
	}
	kind := "secret id"
	if auth.Unwrapped != nil {
		kind = "wrapping token"
	}
	if value = strings.TrimSpace(value); !sendable(value) || len(value) > MaxSecretID || strings.ContainsFunc(value, unicode.IsSpace) {
		return "", &Error{
			Kind: BadConfiguration, Call: loginCall, Server: s.client.config.Server,
			Detail: fmt.Sprintf("the %s is empty, longer than %d bytes, or contains characters that none of Vault's has; put a %s into %s", kind, MaxSecretID, kind, auth.From),
		}
	}
	if auth.Unwrapped == nil {
		return value, nil
	}
	return s.unwrap(ctx, auth, value)
}

// refusal is one of Vault's texts for a refused login, and what it means. In the text, %[1]s is the role, %[2]s the mount,
// such as auth/jwt, and %[3]s the source of what was sent.
type refusal struct {
	words  string
	kind   Kind
	advice string
}

// loginRefusals are those of vault-plugin-auth-jwt path_login.go and cap jwt/jwt.go, and of Vault builtin/credential/approle
// and builtin/credential/cert, path_login.go.
var loginRefusals = map[string][]refusal{
	"jwt": {
		{"could not be found", RoleUnknown, "%[2]s knows no role %[1]s; create it, or correct jwtAuth.role"},
		{"could not load configuration", Refused, "%[2]s has no configuration; write the API server's keys into %[2]s/config (kubectl istiod-agent vault --auth=jwt prints the command)"},
		{"invalid audience", NotAuthorized, "role %[1]s requires a token of another audience; set jwtAuth.audience to one of the role's bound_audiences"},
		{"no audiences bound", NotAuthorized, "role %[1]s has no bound_audiences, and the token has an audience; set the role's bound_audiences to jwtAuth.audience"},
		{"invalid subject", NotAuthorized, "role %[1]s is not for this service account; set the role's bound_subject to system:serviceaccount:<namespace>:<name> of istiod"},
		{"error validating claims", NotAuthorized, "role %[1]s requires other claims than the token has (bound_claims); correct the role, or use istiod's own service account"},
		{"invalid issuer", NotAuthorized, "%[2]s expects tokens of another issuer; set bound_issuer in %[2]s/config to the API server's --service-account-issuer"},
		{"token signature", NotAuthorized, "%[2]s does not know the key that signed the token; write the current keys of this cluster's API server into %[2]s/config (kubectl istiod-agent vault --auth=jwt prints the command), also after each change of those keys"},
		{"token is expired", NotAuthorized, "the token has expired by Vault's clock; compare the clocks of Vault and the API server. If they agree, the file with the token is not renewed: use the one that the injection mounts"},
		{"not yet valid", ClockDiffers, clocksDiffer},
		{"issued in the future", ClockDiffers, clocksDiffer},
		{"oidc role_type", NotAuthorized, "role %[1]s is for logins in a browser; set role_type=jwt in the role"},
	},
	"approle": {
		{"source address", NotAuthorized, "the AppRole does not allow the address of istiod's Pod; correct secret_id_bound_cidrs or token_bound_cidrs of the role"},
		{"secret", NotAuthorized, "it does not accept the role id or the secret id in %[3]s: the secret id has expired, was revoked, used up or replaced, or is another role's; " +
			"put a new one there (vault write -f %[2]s/role/<role>/secret-id), and compare appRoleAuth.roleId with %[2]s/role/<role>/role-id"},
	},
	"cert": {
		{"client certificate must be supplied", NotAuthorized, noClientCertificate},
		{"no client certificate found", NotAuthorized, noClientCertificate},
		{"tls connection", NotAuthorized, "Vault's listener has no TLS: a proxy or gateway ends it, and the client certificate with it; set server to Vault's own address"},
		{"has been revoked", NotAuthorized, "the client certificate in %[3]s is revoked; put a new one there"},
		{"certificate", NotAuthorized, "no role of %[2]s accepts the client certificate in %[3]s; put one there that is not revoked, and whose CA and names a role trusts, or correct the role (certAuth.role)"},
	},
}

const (
	noClientCertificate = "Vault has not received the client certificate: its listener does not request one (tls_disable_client_certs), or a proxy or gateway ends TLS in front of it; set server to Vault's own address"
	clocksDiffer        = "the token is not valid yet by Vault's clock, which is behind that of the API server; correct the clocks (Vault tolerates a minute)"
)

// refused explains a refused login where its method's own texts do. It reports whether that is so.
func (s *Session) refused(e *Error, answer *api.ResponseError) bool {
	config := s.client.config
	login, mount, from := config.method(), strings.TrimSuffix(e.Path, "/login"), ""
	switch {
	case config.AppRole != nil:
		from = config.AppRole.From
	case config.Cert != nil:
		from = config.Cert.From
	}
	role := fmt.Sprintf("%q", login.role)
	for _, refusal := range loginRefusals[login.name] {
		if mentions(answer, refusal.words) {
			e.Kind, e.advice = refusal.kind, expand(refusal.advice, role, mount, from)
			if leaf := s.client.certificate.Load(); leaf != nil {
				s.describeCertificate(e, leaf, from)
			}
			return true
		}
	}
	if answer.StatusCode != http.StatusForbidden && answer.StatusCode != http.StatusUnauthorized || login.name == "kubernetes" {
		return false
	}
	e.Kind, e.advice = NotAuthorized, fmt.Sprintf("permission denied at %q: no auth method of type %s is there, or it does not allow the address of istiod's Pod (token_bound_cidrs)", e.Path, login.name)
	if login.name == "approle" {
		e.advice += ", or Vault has locked the role id after failed logins (user lockout), for 15 minutes"
	}
	e.advice += fmt.Sprintf("; correct %s.mountPath, or enable it (kubectl istiod-agent vault --auth=%s prints how)", login.field, login.name)
	return true
}

// expand fills in the parts that a text has.
func expand(text, role, mount, from string) string {
	return strings.NewReplacer("%[1]s", role, "%[2]s", mount, "%[3]s", from).Replace(text)
}

// describeCertificate adds the validity and issuer of a refused client certificate.
func (s *Session) describeCertificate(e *Error, certificate *tls.Certificate, from string) {
	leaf, now := certificate.Leaf, time.Now()
	if leaf == nil {
		return
	}
	switch {
	case now.After(leaf.NotAfter):
		e.Kind, e.advice = CertificateExpired, fmt.Sprintf("the client certificate in %s expired at %s; put a new one there", from, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		e.Kind, e.advice = ClockDiffers, fmt.Sprintf("the client certificate in %s is not valid before %s; check the clocks, and the certificate", from, leaf.NotBefore.UTC().Format(time.RFC3339))
	default:
		e.advice += fmt.Sprintf(" (it was issued by %.200q and expires at %s)", leaf.Issuer.String(), leaf.NotAfter.UTC().Format(time.RFC3339))
	}
}
