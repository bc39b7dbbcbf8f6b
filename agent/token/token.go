// SPDX-License-Identifier: Apache-2.0

// Package token reads the service account tokens that the agent may send to the server in a specification. It returns nothing
// else: whatever the path or the file's content, no key, certificate or password passes.
package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// maxSize bounds a token. The API server's have one to two kilobytes.
const maxSize = 16 << 10

// subjectPrefix starts the subject of every service account token (k8s.io/apiserver pkg/authentication/serviceaccount,
// ServiceAccountUsernamePrefix).
const subjectPrefix = "system:serviceaccount:"

// Token is a service account token.
type Token struct {
	// Raw is the token itself, a JWT in its compact form (RFC 7515, section 7.1), without space around it.
	Raw string
	// Audiences are its aud claim; a legacy token from a Secret has none and is good for the API server.
	Audiences []string
	// Pod is the Pod that the token is bound to, empty for none.
	Pod Pod
}

// Pod is a Pod in a token's claims (k8s.io/kubernetes pkg/serviceaccount/claims.go).
type Pod struct{ Namespace, Name, UID string }

// IsFor reports whether the token is for one audience alone.
func (t Token) IsFor(audience string) bool {
	return len(t.Audiences) == 1 && t.Audiences[0] == audience
}

// Parse returns the service account token that is the whole content: three base64url parts, a JSON header with an algorithm,
// claims with an issuer and a service account as subject. It does not verify the signature. No error quotes the content.
func Parse(content []byte) (Token, error) {
	if len(content) > maxSize {
		return Token{}, fmt.Errorf("is larger than %d bytes, so it is no service account token", maxSize)
	}
	raw := strings.TrimSpace(string(content))
	if raw == "" {
		return Token{}, errors.New("is empty")
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || parts[2] == "" {
		return Token{}, errors.New("is no JWT, so it is no service account token")
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return Token{}, errors.New("is no JWT, so it is no service account token")
		}
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	if err := json.Unmarshal(decoded[0], &header); err != nil || header.Algorithm == "" || strings.EqualFold(header.Algorithm, "none") {
		return Token{}, errors.New("is no signed JWT, so it is no service account token")
	}
	var claims struct {
		Issuer   string    `json:"iss"`
		Subject  string    `json:"sub"`
		Audience audiences `json:"aud"`
		// A claim of another form is no reason to refuse a token.
		Kubernetes json.RawMessage `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(decoded[1], &claims); err != nil || claims.Issuer == "" || !isServiceAccount(claims.Subject) {
		return Token{}, errors.New("is a JWT, and not that of a service account")
	}
	return Token{Raw: raw, Audiences: claims.Audience, Pod: podOf(claims.Kubernetes)}, nil
}

func podOf(claim json.RawMessage) Pod {
	var bound struct {
		Namespace string `json:"namespace"`
		Pod       struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"pod"`
	}
	if json.Unmarshal(claim, &bound) != nil || bound.Pod.Name == "" || bound.Pod.UID == "" {
		return Pod{}
	}
	return Pod{Namespace: bound.Namespace, Name: bound.Pod.Name, UID: bound.Pod.UID}
}

func isServiceAccount(subject string) bool {
	namespace, name, ok := strings.Cut(strings.TrimPrefix(subject, subjectPrefix), ":")
	return ok && strings.HasPrefix(subject, subjectPrefix) && namespace != "" && name != ""
}

// audiences is an aud claim: one string, or a list of them (RFC 7519, section 4.1.3).
type audiences []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audiences) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(a))
}
