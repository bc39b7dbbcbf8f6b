// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/vault/api"
)

const (
	lookupCall = "look its own token up"
	renewCall  = "renew its own token"
	// longest bounds the times of an answer: a Duration holds 292 years.
	longest = 100 * 365 * 24 * time.Hour
)

// Token is the state of a session's own token (https://developer.hashicorp.com/vault/api-docs/auth/token).
type Token struct {
	// TTL is the remaining validity, 0 for one without an end; Life is the TTL at its creation.
	TTL, Life time.Duration
	// Expires is the end by Vault's clock, zero for one without an end, or unknown.
	Expires time.Time
	// Renewable is false for batch tokens and those made with -renewable=false.
	Renewable, Batch bool
	// Uses is the number of calls that it still allows: 0 for any, below 0 for none.
	Uses int64
}

// LookupToken returns the state of the session's own token, and costs one of its uses. Vault's default policy allows it.
func (s *Session) LookupToken(ctx context.Context) (*Token, error) {
	const path = "auth/token/lookup-self"
	answer, err := s.read(ctx, lookupCall, path)
	if err != nil {
		return nil, err
	}
	seconds := func(key string) time.Duration { return duration(integer(answer, key)) }
	token := &Token{TTL: seconds("ttl"), Life: max(seconds("creation_ttl"), seconds("ttl")), Uses: integer(answer, "num_uses")}
	token.Renewable, _ = answer.Data["renewable"].(bool)
	token.Batch = string(text(answer, "type")) == "batch\n"
	if value, ok := answer.Data["expire_time"].(string); ok {
		token.Expires, _ = time.Parse(time.RFC3339, value)
	}
	if answer.Data["ttl"] == nil {
		return nil, s.bad(lookupCall, path, "it has no data.ttl")
	}
	return token, nil
}

// RenewToken renews the session's own token by its original TTL, where Vault allows that, and returns the new TTL. Vault's default
// policy allows it.
func (s *Session) RenewToken(ctx context.Context) (time.Duration, error) {
	const path = "auth/token/renew-self"
	answer, err := s.write(ctx, renewCall, path, map[string]any{})
	if err != nil {
		return 0, err
	}
	if answer.Auth == nil || answer.Auth.LeaseDuration <= 0 {
		return 0, s.bad(renewCall, path, "it has no auth.lease_duration")
	}
	return duration(int64(answer.Auth.LeaseDuration)), nil
}

func duration(seconds int64) time.Duration {
	return time.Duration(min(max(seconds, 0), int64(longest/time.Second))) * time.Second
}

// integer returns a number of the answer's data, 0 where there is none.
func integer(answer *api.Secret, key string) int64 {
	number, _ := answer.Data[key].(json.Number)
	value, err := number.Int64()
	if err != nil {
		return 0
	}
	return value
}
