// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/hashicorp/vault/api"
)

// Kind is a kind of failure: the key of log lines, events and metrics.
type Kind string

// The kinds.
//
//reasons:page vault
const (
	// Sealed: Vault is sealed.
	//
	// Remedy: `vault operator unseal`; for a sealed namespace of OpenBao `bao namespace unseal`.
	Sealed Kind = "VaultSealed"
	// Unreachable: Vault or the forward proxy does not answer, or the server is not the active Vault: the message
	// contains the cause and the next step. The agent retries.
	//
	// Remedy: follow the message. [Vault refuses](troubleshooting.md#vault-refuses) lists the usual causes.
	Unreachable Kind = "VaultUnreachable"
	// TLS: The agent cannot read or verify Vault's certificate: the message contains the reason.
	//
	// Remedy: `caBundle` must contain the CA of Vault's certificate, which must be valid for the server name in the
	// specification.
	TLS Kind = "VaultTLS"
	// RoleUnknown: Vault's auth method has no such role.
	//
	// Remedy: create the role, or correct `kubernetesAuth.role` or `jwtAuth.role`.
	RoleUnknown Kind = "VaultRoleUnknown"
	// NotAuthorized: Vault refuses the login. The role is for another service account, namespace or audience. Or Vault
	// cannot review tokens, as with an [expired `token_reviewer_jwt`](vault.md#the-login), or does not know the API
	// server's keys (`jwtAuth`). Or the token or secret id is no longer valid, no role accepts the client certificate,
	// or Vault requires a second factor.
	//
	// Remedy: compare the role with the message. `kubectl istiod-agent check --vault` examines Vault's side.
	NotAuthorized Kind = "VaultNotAuthorized"
	// PolicyDenies: The login succeeded, and its policy does not permit the call.
	//
	// Remedy: `kubectl istiod-agent check --vault`, with `VAULT_ADDR` and `VAULT_TOKEN`, shows what Vault lacks. It prints
	// the command that repairs it, with the service accounts and namespaces of your istiods: run that with `--dry-run` first.
	// In a policy of yours, allow the path in the message, with all parameters that the agent sends:
	// [the policy](vault.md#the-policy).
	PolicyDenies Kind = "VaultPolicyDenies"
	// PathMissing: Nothing is mounted at the path, or it or the namespace is misspelt.
	//
	// Remedy: correct `caPath`, `csrPath`, `mountPath` or `namespace`, or enable the engine.
	PathMissing Kind = "VaultPathMissing"
	// RateLimited: Vault's rate limit quota is exhausted. The agent retries.
	//
	// Remedy: raise the rate limit quota.
	RateLimited Kind = "VaultRateLimited"
	// Refused: Vault refuses the call for another reason.
	//
	// Remedy: follow the message: it quotes Vault's error and gives the next step.
	Refused Kind = "VaultRefused"
	// BadAnswer: Something other than Vault answers or refuses: a proxy, gateway or firewall, or an
	// AuthorizationPolicy of Vault's mesh. The message names it.
	//
	// Remedy: permit the agent's calls there, or correct `server`.
	BadAnswer Kind = "VaultBadAnswer"
	// BadConfiguration: The server's URL is unusable.
	//
	// Remedy: correct `server`.
	BadConfiguration Kind = "VaultBadConfiguration"
	// Redirects: The server redirects to another address, which the message contains. The agent follows redirects only
	// to the same scheme, host and port, and below the path prefix of the server.
	//
	// Remedy: set `server` to the active Vault, or to a load balancer or Service in front of it.
	Redirects Kind = "VaultRedirects"
	// ClockDiffers: The token or client certificate is not valid yet.
	//
	// Remedy: correct the clocks of Vault and the cluster.
	ClockDiffers Kind = "VaultClockDiffers"
	// CertificateExpired: The client certificate of the login has expired.
	//
	// Remedy: put a new client certificate into the Secret or directory of `certAuth`.
	CertificateExpired Kind = "VaultClientCertificateExpired"
	// WrappingTokenUsed: The [wrapping token](vault.md#approle) was used already, or has expired.
	//
	// Remedy: if none of your programs used it, revoke the secret id, and look for `sys/wrapping/unwrap` in Vault's
	// audit log. Then put a new wrapping token there.
	WrappingTokenUsed Kind = "VaultWrappingTokenUsed"
	// WrappingTokenForeign: The wrapping token does not come from the AppRole's endpoint `secret-id`, so the agent did
	// not unwrap it.
	//
	// Remedy: find out who put it there.
	WrappingTokenForeign Kind = "VaultWrappingTokenForeign"
)

// Error is a failed call.
type Error struct {
	Kind Kind
	// Call describes the call; Path is its endpoint, Server Vault's URL, Capability what a policy must allow, and Role the
	// login's, empty for a token from elsewhere.
	Call, Path, Server, Capability, Role string
	// Detail has more about it. It quotes Vault only after a check for secrets.
	Detail string
	// advice replaces the usual sentence of the kind.
	advice string
	cause  error
}

// Error returns what happened and what to do, in one sentence.
func (e *Error) Error() string {
	return fmt.Sprintf("asking Vault at %s to %s: %s", e.Server, e.Call, e.sentence())
}

// ReasonKey returns the kind, as the key of log lines, events and metrics.
func (e *Error) ReasonKey() string { return string(e.Kind) }

func (e *Error) sentence() string {
	if e.advice != "" {
		return e.advice
	}
	switch e.Kind {
	case Sealed:
		return "it is sealed; unseal it (vault operator unseal)"
	case Unreachable:
		return e.Detail + "; check the server's address, its Pods and the network policies on the way"
	case RoleUnknown:
		return fmt.Sprintf("%s knows no role %q; create it, or correct kubernetesAuth.role", strings.TrimSuffix(e.Path, "/login"), e.Role)
	case PolicyDenies:
		return fmt.Sprintf("permission denied; allow it in the policy of %s: path %q { capabilities = [%q] }, with all parameters that are sent, or log in anew if the token has expired", e.ofRole(), e.Path, e.Capability)
	case PathMissing:
		return fmt.Sprintf("there is nothing at %q; enable the secrets engine or auth method there, or correct the path or the namespace in the specification", e.Path)
	case RateLimited:
		return "it answers too many requests (429); raise its rate limit quota if this continues"
	case Refused:
		return fmt.Sprintf("%q refuses it: %s; %s", e.Path, e.Detail, refusalAdvice(e.Detail))
	case BadAnswer:
		return fmt.Sprintf("the answer of %q is not Vault's: %s; check that the server's address is Vault's and no proxy answers in its place", e.Path, e.Detail)
	default:
		return e.Detail
	}
}

// ofRole names the login's role.
func (e *Error) ofRole() string {
	if e.Role == "" {
		return "the login's role"
	}
	return fmt.Sprintf("role %q", e.Role)
}

// refusals are Vault's texts for refusals with a known solution (Vault builtin/logical/pki and vault-plugin-auth-kubernetes).
var refusals = []struct{ words, advice string }{
	{"notBefore before signer's notBefore", "wait: its CA is younger than the 30 seconds by which it backdates certificates, and the agent retries; if this lasts longer than a minute, correct Vault's clock"},
	{"beyond the expiration of the CA", "lower ttlDays, renew the CA that signs, or set leaf_not_after_behavior=truncate on its issuer"},
	{"no default issuer", "give the mount its CA (kubectl istiod-agent vault prints how)"},
	{"no issuer configured", "give the mount its CA (kubectl istiod-agent vault prints how)"},
	{"CA certificate/key", "give the mount its CA (kubectl istiod-agent vault prints how)"},
	{"could not load backend configuration", "write the auth method's config (kubectl istiod-agent vault prints the command)"},
	{"request needs further approval", "remove the control group from the policy, since it needs a person for each renewal"},
}

func refusalAdvice(words string) string {
	for _, refusal := range refusals {
		if strings.Contains(words, refusal.words) {
			return refusal.advice
		}
	}
	return "correct what it names, in Vault or in the specification; Vault's audit log has the request"
}

// Unwrap returns the context's error where it has ended.
func (e *Error) Unwrap() error { return e.cause }

// explain returns the Error for an error of Vault's client.
func (s *Session) explain(ctx context.Context, call, capability, path string, err error) error {
	e := &Error{Call: call, Path: path, Server: s.client.config.Server, Capability: capability}
	e.Role = s.client.config.method().role
	last, answer := *s.last, (*api.ResponseError)(nil)
	answered := errors.As(err, &answer)
	answer = s.withoutSecrets(answer)
	switch {
	case ctx.Err() != nil:
		e.Kind, e.Detail, e.cause = Unreachable, "stopped while waiting for the answer", ctx.Err()
	case errors.As(err, new(*http.MaxBytesError)):
		e.Kind, e.Detail = BadAnswer, fmt.Sprintf("it is longer than %d bytes", answerLimit)
	case last.status >= 400 && e.standsBy(&last, answer):
	case last.status >= 400 && !last.isVaults && !cutOff(err) && !speaksHTTPS(answer):
		s.foreign(e, &last)
	case answered && mentions(answer, "wrapping token is not valid") && s.client.config.AppRole != nil:
		s.wrappingUsed(e)
	case answered && e.Call == loginCall && answer.StatusCode != http.StatusServiceUnavailable && s.refused(e, answer):
	case answered && answer.StatusCode == http.StatusForbidden && e.Call != loginCall:
		s.denied(e, answer)
	case answered:
		e.answered(answer)
	default:
		s.failed(e, &last, err)
	}
	return e
}

// mentions reports whether one of an answer's errors contains words, in any case.
func mentions(answer *api.ResponseError, words string) bool {
	return answer != nil && slices.ContainsFunc(answer.Errors, func(m string) bool { return strings.Contains(strings.ToLower(m), words) })
}

func cutOff(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) || isTimeout(err) }

func isTimeout(err error) bool {
	network, isNetwork := errors.AsType[net.Error](err)
	return errors.Is(err, context.DeadlineExceeded) || isNetwork && network.Timeout()
}

// speaksHTTPS recognizes the answers to plain HTTP on an HTTPS port, of Go's servers (Vault) and nginx.
func speaksHTTPS(answer *api.ResponseError) bool {
	return mentions(answer, "client sent an http request to an https server") || mentions(answer, "plain http request was sent to https port")
}

// standsBy explains the answers of a server that is not the active Vault, by status
// (https://developer.hashicorp.com/vault/api-docs/system/health) or text.
func (e *Error) standsBy(last *trace, answer *api.ResponseError) bool {
	const active = "set server to the active Vault, or to a load balancer or Service that leads to it"
	e.Kind = Unreachable
	switch {
	case last.health != nil && *last.health.Initialized && *last.health.Sealed:
		e.Kind = Sealed
	case last.status == http.StatusNotImplemented, last.health != nil && !*last.health.Initialized, mentions(answer, "vault is not initialized"):
		e.advice = "it is not initialized; run vault operator init"
	case last.status == 472, mentions(answer, "dr secondary"), mentions(answer, "disaster recovery"):
		e.advice = "it is a disaster recovery secondary (472), which issues nothing; set server to the primary"
	case last.status == 473:
		e.advice = "it is a performance standby that does not forward (473); " + active
	case mentions(answer, "active cluster node not found"), mentions(answer, "no active vault instance"):
		e.advice = "it is a standby without an active Vault; check that one of Vault's servers is unsealed and active"
	case last.health != nil, mentions(answer, "in standby mode"):
		e.advice = fmt.Sprintf("it is a standby that does not forward (%d); %s", last.status, active)
	default:
		e.Kind = ""
		return false
	}
	return true
}

// foreign explains an error of another server than Vault.
func (s *Session) foreign(e *Error, last *trace) {
	sender, code := last.sender(), last.status
	proxy := s.client.forwardProxy()
	if proxy != "" && strings.HasPrefix(e.Server, "http:") { // else it has forwarded the connection
		sender = proxy + ", or " + sender
	}
	e.Kind = BadAnswer
	switch {
	case code == http.StatusProxyAuthRequired && proxy != "":
		e.Kind, e.advice = Unreachable, s.client.ofProxy(&proxyError{code})
	case last.mesh:
		e.advice = fmt.Sprintf("an AuthorizationPolicy of the mesh that Vault is in refuses it (RBAC: access denied, %d), and Vault was not asked; "+
			"allow the addresses of istiod's Pods there: they have no sidecar, and so no principal in the mesh", code)
	case code == http.StatusTooManyRequests:
		e.Kind = RateLimited
		e.advice = fmt.Sprintf("%s answers too many requests (429) in Vault's place; raise its limit if this continues", sender)
	case code >= 500:
		e.Kind = Unreachable
		e.advice = fmt.Sprintf("it answered %d, and the answer is not Vault's but that of %s; check the server's address, Vault's Pods, and what stands before them", code, sender)
	case code == http.StatusForbidden, code == http.StatusUnauthorized, code == http.StatusProxyAuthRequired:
		e.advice = fmt.Sprintf("the answer of %q is not Vault's: %s refuses it (%d), not a policy of Vault's; let the requests of istiod's Pods through there, or set server to an address that leads to Vault itself", e.Path, sender, code)
	case code == http.StatusNotFound:
		e.advice = fmt.Sprintf("the answer of %q is not Vault's: %s answers that there is nothing (404); check that the server's address is Vault's, with the prefix of its paths if there is one, and no proxy answers in its place", e.Path, sender)
	default:
		e.advice = fmt.Sprintf("the answer of %q is not Vault's: %s answers with status %d; check that the server's address is Vault's and no proxy answers in its place", e.Path, sender, code)
	}
}

// denied explains a refused call after the login.
func (s *Session) denied(e *Error, answer *api.ResponseError) {
	e.Kind = PolicyDenies
	// OpenBao, and Vault before 1.17, say nothing of an invalid token, but a login's uses are counted here too.
	invalid := mentions(answer, "invalid token") || mentions(answer, "bad token") || s.uses > 0 && s.used > s.uses
	switch kept := s.client.config.TokenFrom; {
	case s.client.config.Token != nil && invalid:
		e.Kind = NotAuthorized
		e.advice = fmt.Sprintf("it does not know the token in %s: it has expired, was revoked or used up, or is another Vault's or namespace's; put a new one there", kept)
	case s.client.config.Token != nil:
		e.advice = fmt.Sprintf("permission denied; allow it in a policy of the token in %s: path %q { capabilities = [%q] }, with all parameters that are sent, or put a new token there if it has expired", kept, e.Path, e.Capability)
	case invalid && s.uses > 0:
		e.Kind = NotAuthorized
		e.advice = fmt.Sprintf("the login ended before the renewal was complete: %s allows %d calls (token_num_uses), and the agent makes up to five; set token_num_uses=0 in the role, and token_ttl to a minute or more", e.ofRole(), s.uses)
	case invalid:
		e.Kind = NotAuthorized
		e.advice = fmt.Sprintf("the login ended before the renewal was complete: its token was revoked or has expired; the agent logs in again; if this repeats, raise token_ttl of %s to a minute or more", e.ofRole())
	}
}

// answered explains an error of Vault (http/handler.go, sdk/logical/error.go).
func (e *Error) answered(answer *api.ResponseError) {
	login := e.Call == loginCall
	switch code := answer.StatusCode; {
	case code == http.StatusServiceUnavailable && mentions(answer, "namespace is sealed"): // OpenBao sdk/helper/consts/error.go
		e.Kind, e.advice = Sealed, "the namespace of spec.agentCa.vault is sealed; unseal it (bao namespace unseal)"
	case code == http.StatusServiceUnavailable && mentions(answer, "api access to this namespace has been locked"): // the same, and Vault Enterprise
		e.Kind, e.advice = Unreachable, "an administrator has locked the namespace of spec.agentCa.vault; unlock it (vault or bao namespace unlock)"
	case code == http.StatusNotFound && mentions(answer, "namespace not found"): // OpenBao vault/request_handling.go
		e.Kind, e.advice = PathMissing, "it has no such namespace; correct the namespace in the specification"
	case code == http.StatusServiceUnavailable && mentions(answer, "sealed"):
		e.Kind = Sealed
	case code == http.StatusTooManyRequests:
		e.Kind = RateLimited
	case code == http.StatusPreconditionFailed:
		e.Kind, e.Detail = Unreachable, "it answered 412, from a replica that is behind"
	case code == http.StatusNotFound:
		e.Kind = PathMissing
	case login && code == http.StatusBadRequest && mentions(answer, "invalid role name"):
		e.Kind = RoleUnknown
	case login && mentions(answer, "service account name not authorized"):
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("role %q is not for this service account; add it to the role's bound_service_account_names", e.Role)
	case login && mentions(answer, "namespace not authorized"):
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("role %q is not for this namespace; add it to the role's bound_service_account_namespaces", e.Role)
	case login && mentions(answer, "audience"):
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("role %q requires a token of another audience; set kubernetesAuth.audience to the role's", e.Role)
	case login && (code == http.StatusForbidden || code == http.StatusUnauthorized):
		mount := strings.TrimSuffix(e.Path, "/login")
		e.Kind, e.Detail = NotAuthorized, fmt.Sprintf("it does not accept the service account token for role %q at %q. Either no auth method is there (which answers the same), or the API server refuses Vault's TokenReview. "+
			"If logins worked before, the token_reviewer_jwt in %s/config has probably expired: the token of a Pod ends with that Pod. Write the config without token_reviewer_jwt, and bind Vault's service account to system:auth-delegator (docs/vault.md, The login). "+
			"Else compare the token's audience with the role's, and check kubernetes_host and kubernetes_ca_cert there", e.Role, e.Path, mount)
	case speaksHTTPS(answer):
		e.Kind, e.Detail = TLS, "it speaks HTTPS; write https:// in the server's address"
	case code == http.StatusBadRequest || code == http.StatusInternalServerError && len(answer.Errors) > 0:
		e.Kind, e.Detail = Refused, fmt.Sprintf("status %d", code)
		if len(answer.Errors) > 0 {
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

// failed explains why there is no answer, or an invalid one.
func (s *Session) failed(e *Error, last *trace, err error) {
	if words := s.client.ofProxy(err); words != "" {
		e.Kind, e.advice = Unreachable, words
		return
	}
	if words := tlsProblem(err); words != "" {
		e.Kind, e.Detail = TLS, words
		if proxy := s.client.forwardProxy(); proxy != "" {
			e.Detail += "; or name Vault's host in NO_PROXY, if " + proxy + " answers in its place"
		}
		return
	}
	const toActive = "set server to that address if it is right, or to one that always leads to the active Vault"
	if elsewhere, ok := errors.AsType[*elsewhereError](err); ok {
		other, ok := quotable(elsewhere.address) // the server chooses the host's name
		if !ok {
			other = "another server"
		}
		e.Kind, e.Detail = Redirects, fmt.Sprintf("it redirects to %s, and the login goes to no server but the one in the specification; %s", other, toActive)
		return
	}
	if network := networkProblem(err); network != "" {
		e.Kind, e.Detail = Unreachable, network
		if proxy := s.client.forwardProxy(); proxy != "" {
			e.advice = network + " through " + proxy + "; check Vault and the proxy, or name Vault's host in NO_PROXY if it needs no proxy"
		}
		return
	}
	switch {
	case strings.Contains(err.Error(), "protocol downgrade"):
		e.Kind, e.Detail = Redirects, "it redirects from https to http, which is not followed; set server to the active Vault's https:// address"
	case last.status >= 300 && last.status < 400:
		e.Kind, e.Detail = Redirects, fmt.Sprintf("it redirects (%d) to where no login is sent, or more than once; %s", last.status, toActive)
	default:
		e.Kind, e.Detail = BadAnswer, "it is not JSON of the expected form"
	}
}

// networkProblem returns why a connection failed, empty for other errors.
func networkProblem(err error) string {
	dns, isDNS := errors.AsType[*net.DNSError](err)
	_, isNetwork := errors.AsType[net.Error](err)
	switch {
	case isTimeout(err):
		return "it did not answer in time"
	case isDNS:
		return fmt.Sprintf("its name %.200q cannot be resolved", dns.Name)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the connection was refused"
	case strings.Contains(err.Error(), "first record does not look like a TLS handshake"):
		return "it does not speak TLS"
	case isNetwork, errors.Is(err, syscall.ECONNRESET):
		if op, ok := errors.AsType[*net.OpError](err); ok {
			return "the connection failed (" + op.Op + ")"
		}
		return "the connection failed"
	case strings.Contains(err.Error(), "EOF"):
		return "the connection was cut off in the middle of an answer"
	}
	return ""
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
	if unverified, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Sprintf("its certificate cannot be verified (%s); give Vault another", printable(unverified.Err.Error()))
	}
	if _, words, ok := strings.Cut(err.Error(), "tls: failed to parse certificate from server: "); ok {
		return fmt.Sprintf("its certificate cannot be read (%s); give Vault another", printable(words))
	}
	// The type of an alert is not exported; this is its text alone.
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return fmt.Sprintf("it ended the TLS connection (%s); check its listener's TLS versions, and whether it requires a client certificate", op.Err)
	}
	if _, words, ok := strings.Cut(err.Error(), "tls: "); ok {
		return fmt.Sprintf("the TLS connection failed (%s); check Vault's listener and its certificate", printable(words))
	}
	return ""
}

// printable returns an error's text if it may be printed.
func printable(text string) string {
	if words, ok := quotable(text); ok {
		return words
	}
	return "for a reason that is not printed"
}

// secretLike matches what must not be quoted from Vault: a token, a JWT, PEM, any long run of base64 or hexadecimal.
var secretLike = regexp.MustCompile(`(?i)\b(hv[sbr]|s|b)\.[a-z0-9_-]{8,}|eyJ|-----BEGIN|[a-z0-9+/_=-]{40,}`)

// quotable returns a text of Vault on one line of at most 200 characters, if nothing in it can be a secret.
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
