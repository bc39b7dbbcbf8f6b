// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const (
	wrappingLookupCall = "look the wrapping token up"
	unwrapCall         = "unwrap the secret id"
)

// Unwrapped keeps the secret id that the last wrapping token gave: a wrapping token gives it once. It is for one goroutine.
type Unwrapped struct {
	// Of identifies the wrapping token, and where it was unwrapped: the secret id goes to no other server or mount.
	Of string `json:"of"`
	// SecretID is a secret.
	SecretID string `json:"secretId"`
}

// secretIDPath matches the endpoint of an AppRole that makes secret ids, below the mount.
var secretIDPath = regexp.MustCompile(`^role/[^/]+/secret-id$`)

// plainPath matches paths that cannot hold a token of Vault's or a JWT, which contain dots.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_/-]+$`)

// maxShownPath is the length of a path in a message.
const maxShownPath = 200

// unwrap returns the secret id of a wrapping token, and keeps it. Vault's advice is to check, before that, that the token
// exists, which shows that no other client has used it, and that the expected endpoint made it
// (https://developer.hashicorp.com/vault/docs/concepts/response-wrapping).
func (s *Session) unwrap(ctx context.Context, auth *AppRoleAuth, token string) (string, error) {
	config := s.client.config
	hash := sha256.Sum256([]byte(strings.Join([]string{config.Server, config.Namespace, s.client.endpoints.Login, token}, "\x00")))
	of := hex.EncodeToString(hash[:])
	if auth.Unwrapped.Of == of && auth.Unwrapped.SecretID != "" {
		return auth.Unwrapped.SecretID, nil
	}
	s.sent = append(s.sent, token)
	answer, err := s.write(ctx, wrappingLookupCall, "sys/wrapping/lookup", map[string]any{"token": token})
	if err != nil {
		return "", err
	}
	path, _ := answer.Data["creation_path"].(string)
	mount := strings.TrimSuffix(s.client.endpoints.Login, "login")
	// In a namespace, Vault may put its name in front.
	if namespace := strings.Trim(config.Namespace, "/"); namespace != "" {
		path = strings.TrimPrefix(path, namespace+"/")
	}
	if below, ok := strings.CutPrefix(path, mount); !ok || !secretIDPath.MatchString(below) {
		made := path
		if len(path) > maxShownPath || !plainPath.MatchString(path) || slices.ContainsFunc(s.sent, func(secret string) bool { return strings.Contains(path, secret) }) {
			made = "an endpoint that is not shown"
		}
		return "", &Error{
			Kind: WrappingTokenForeign, Call: wrappingLookupCall, Server: config.Server,
			Detail: fmt.Sprintf("the wrapping token in %s was made by %s; expected %srole/<role>/secret-id. It was not unwrapped. It may be an attack: find out who put that token there, then replace it", auth.From, made, mount),
		}
	}
	s.api.SetToken(token)
	answer, err = s.write(ctx, unwrapCall, "sys/wrapping/unwrap", map[string]any{})
	s.api.ClearToken()
	if err != nil {
		return "", err
	}
	secretID, _ := answer.Data["secret_id"].(string)
	if secretID = strings.TrimSpace(secretID); !sendable(secretID) || len(secretID) > MaxSecretID {
		return "", s.bad(unwrapCall, "sys/wrapping/unwrap", "it has no data.secret_id")
	}
	*auth.Unwrapped = Unwrapped{Of: of, SecretID: secretID}
	return secretID, nil
}

// wrappingUsed explains Vault's refusal of a wrapping token (sdk/helper/consts, ErrInvalidWrappingToken).
func (s *Session) wrappingUsed(e *Error) {
	e.Kind = WrappingTokenUsed
	e.advice = fmt.Sprintf("the wrapping token in %[1]s was used already, or has expired. If none of your programs has unwrapped it, another party may have the secret id: revoke it (vault list %[2]srole/<role>/secret-id shows its accessor, and secret-id-accessor/destroy revokes it), and look for sys/wrapping/unwrap in Vault's audit log. "+
		"Put a new wrapping token there, for this Pod alone, and use it before its wrap TTL ends", s.client.config.AppRole.From, strings.TrimSuffix(s.client.endpoints.Login, "login"))
}
