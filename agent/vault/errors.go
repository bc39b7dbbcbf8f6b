// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/hashicorp/vault/api"
)

// Kind is what went wrong: the key of log lines, events and metrics.
type Kind string

// The kinds.
const (
	Sealed           Kind = "VaultSealed"
	Unreachable      Kind = "VaultUnreachable"
	TLS              Kind = "VaultTLS"
	RoleUnknown      Kind = "VaultRoleUnknown"
	NotAuthorized    Kind = "VaultNotAuthorized"
	PolicyDenies     Kind = "VaultPolicyDenies"
	PathMissing      Kind = "VaultPathMissing"
	RateLimited      Kind = "VaultRateLimited"
	Refused          Kind = "VaultRefused"
	BadAnswer        Kind = "VaultBadAnswer"
	BadConfiguration Kind = "VaultBadConfiguration"
	Redirects        Kind = "VaultRedirects"
)

// Error is a call that did not succeed.
type Error struct {
	Kind Kind
	// Call is what was asked of Vault, in words; Path its endpoint; Server its URL; Capability what a policy
	// must allow there; Role who asked.
	Call, Path, Server, Capability, Role string
	// Detail is what else is known: never Vault's own words, unless they are checked to hold no secret.
	Detail string
	cause  error
}

// Error says what happened and what to do, in one sentence.
func (e *Error) Error() string {
	return fmt.Sprintf("asking Vault at %s to %s: %s", e.Server, e.Call, e.advice())
}

func (e *Error) advice() string {
	switch e.Kind {
	case Sealed:
		return "it is sealed; unseal it (vault operator unseal)"
	case Unreachable:
		return e.Detail + "; check the server's address, its Pods and the network policies on the way"
	case TLS:
		return e.Detail
	case RoleUnknown:
		return fmt.Sprintf("%s knows no role %q; create it, or correct kubernetesAuth.role", strings.TrimSuffix(e.Path, "/login"), e.Role)
	case NotAuthorized:
		return e.Detail
	case PolicyDenies:
		return fmt.Sprintf("permission denied; allow it in the policy of role %q: path %q { capabilities = [%q] }, with all parameters that are sent, or log in anew if the token has expired", e.Role, e.Path, e.Capability)
	case PathMissing:
		return fmt.Sprintf("there is nothing at %q; enable the secrets engine or auth method there, or correct the path in the specification", e.Path)
	case RateLimited:
		return "it answers too many requests (429); raise its rate limit quota if this goes on"
	case Refused:
		return fmt.Sprintf("%q refuses it: %s", e.Path, e.Detail)
	case BadAnswer:
		return fmt.Sprintf("the answer of %q is not Vault's: %s; check that the server's address is Vault's and no proxy answers in its place", e.Path, e.Detail)
	default:
		return e.Detail
	}
}

// Unwrap gives the cause where it is one that callers ask for: that the context has ended.
func (e *Error) Unwrap() error { return e.cause }

// explain makes an Error of what Vault's client gives.
func (s *Session) explain(ctx context.Context, call, capability, path string, err error) error {
	e := &Error{Call: call, Path: path, Server: s.client.config.Server, Capability: capability}
	if k := s.client.config.Kubernetes; k != nil {
		e.Role = k.Role
	}
	if ctx.Err() != nil {
		e.Kind, e.Detail, e.cause = Unreachable, "stopped while waiting for the answer", ctx.Err()
		return e
	}
	if answer, ok := errors.AsType[*api.ResponseError](err); ok {
		e.answered(answer)
		return e
	}
	e.failed(err)
	return e
}

// answered explains an answer with an error's status (Vault http/handler.go, sdk/logical/error.go).
func (e *Error) answered(answer *api.ResponseError) {
	says := func(words string) bool {
		return slices.ContainsFunc(answer.Errors, func(m string) bool { return strings.Contains(strings.ToLower(m), words) })
	}
	login := e.Call == loginCall
	switch code := answer.StatusCode; {
	case code == http.StatusServiceUnavailable && says("sealed"):
		e.Kind = Sealed
	case code == http.StatusTooManyRequests:
		e.Kind = RateLimited
	case code == http.StatusPreconditionFailed:
		e.Kind, e.Detail = Unreachable, "it answered 412, from a replica that is behind"
	case code == http.StatusNotFound:
		e.Kind = PathMissing
	case login && code == http.StatusBadRequest && says("invalid role name"):
		e.Kind = RoleUnknown
	case login && says("service account name not authorized"):
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("role %q is not for this service account; add it to the role's bound_service_account_names", e.Role)
	case login && says("namespace not authorized"):
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("role %q is not for this namespace; add it to the role's bound_service_account_namespaces", e.Role)
	case login && says("audience"):
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("role %q wants a token of another audience; set kubernetesAuth.audience to the role's", e.Role)
	case login && (code == http.StatusForbidden || code == http.StatusUnauthorized):
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("it does not accept the service account token for role %q at %q; check that an auth method is there (a missing one "+
			"answers the same), the token's audience against the role's, kubernetes_host and kubernetes_ca_cert of the auth method's config, and that its token reviewer is still valid and bound to system:auth-delegator", e.Role, e.Path)
	case code == http.StatusForbidden:
		e.Kind = PolicyDenies
	case says("client sent an http request to an https server"):
		e.Kind, e.Detail = TLS, "it speaks HTTPS; write https:// in the server's address"
	case code == http.StatusBadRequest || code == http.StatusInternalServerError && len(answer.Errors) > 0 && !answer.RawError:
		e.Kind, e.Detail = Refused, fmt.Sprintf("status %d; Vault's audit log has the reason", code)
		if len(answer.Errors) > 0 && !answer.RawError { // else it is the whole body
			if words, ok := quotable(answer.Errors[0]); ok {
				e.Detail = words
			}
		}
	case code >= 500:
		e.Kind, e.Detail = Unreachable, fmt.Sprintf("it answered %d", code)
	default:
		e.Kind, e.Detail = BadAnswer, fmt.Sprintf("status %d", code)
	}
}

// failed explains why there is no answer.
func (e *Error) failed(err error) {
	if words := tlsProblem(err); words != "" {
		e.Kind, e.Detail = TLS, words
		return
	}
	if elsewhere, ok := errors.AsType[*elsewhereError](err); ok {
		other, ok := quotable(elsewhere.address) // the host's name is the server's to choose
		if !ok {
			other = "another server"
		}
		e.Kind, e.Detail = Redirects, fmt.Sprintf("it redirects to %s, and the login goes to no server but the one in the specification; "+
			"set server to that address if it is right, or to one that always leads to the active Vault", other)
		return
	}
	if errors.Is(err, errTooLong) {
		e.Kind, e.Detail = BadAnswer, fmt.Sprintf("it is longer than %d bytes", answerLimit)
		return
	}
	e.Kind = Unreachable
	dns, isDNS := errors.AsType[*net.DNSError](err)
	network, isNetwork := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), isNetwork && network.Timeout():
		e.Detail = "it did not answer in time"
	case isDNS:
		e.Detail = fmt.Sprintf("its name %q cannot be resolved", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Detail = "the connection was refused"
	case isNetwork, errors.Is(err, syscall.ECONNRESET):
		e.Detail = "the connection failed"
		if op, ok := errors.AsType[*net.OpError](err); ok {
			e.Detail = "the connection failed (" + op.Op + ")"
		}
	case strings.Contains(err.Error(), "EOF"):
		e.Detail = "the connection was cut off in the middle of an answer"
	case strings.Contains(err.Error(), "protocol downgrade"):
		e.Kind, e.Detail = Redirects, "it redirects from https to http, which is not followed"
	default:
		e.Kind, e.Detail = BadAnswer, "it is not JSON of the kind that is expected"
	}
}

func tlsProblem(err error) string {
	const bundle = "caBundle must hold the CA that signed it"
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		issuer := "an unknown CA"
		if unknown.Cert != nil {
			issuer = fmt.Sprintf("%.200q", unknown.Cert.Issuer.String())
		}
		return fmt.Sprintf("its certificate, signed by %s, is not trusted; %s", issuer, bundle)
	}
	if wrong, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("its certificate is not for %q; use a name that is in the certificate, or add this one to it", wrong.Host)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "its certificate has expired or is not valid yet; renew it, and check the clocks"
		}
		return "its certificate is not valid for a server; " + bundle
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return "it does not speak TLS; write http:// in the server's address to try things out, or turn TLS on"
	}
	// An alert's own type is not exported; these are its words alone.
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return fmt.Sprintf("it ended the TLS connection (%s)", op.Err)
	}
	return ""
}

// secretLike is what Vault's words must not look like to be repeated: a token, a JWT, PEM, any long run of base64 or hexadecimal.
var secretLike = regexp.MustCompile(`(?i)\b(hv[sbr]|s|b)\.[a-z0-9_-]{8,}|eyJ|-----BEGIN|[a-z0-9+/_=-]{40,}`)

// quotable gives words of Vault's on one line, at most 200 characters, if nothing in them can be a secret.
func quotable(words string) (string, bool) {
	words = strings.Join(strings.FieldsFunc(words, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if words == "" || secretLike.MatchString(words) {
		return "", false
	}
	if runes := []rune(words); len(runes) > 200 {
		words = string(runes[:200]) + "…"
	}
	return words, true
}
