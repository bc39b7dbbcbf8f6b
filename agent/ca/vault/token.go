// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
)

const (
	// tokenTimeout is for all calls of one check: a Vault that hangs must not block the agent.
	tokenTimeout = 10 * time.Second
	// tokenPause is the longest time between two checks, within which a new token in the Secret is noticed.
	tokenPause = time.Hour
	// tokenFloor is the shortest, whatever Vault reports.
	tokenFloor = 5 * time.Second
	// tokenRetry is the time to the next check after one that failed.
	tokenRetry = 30 * time.Second
	// tokenReplaced is the longest time between two checks while the status reports that the token must be replaced.
	tokenReplaced = 5 * time.Minute
	// tokenLead is the longest time before the end of a token that the status reports it.
	tokenLead = 7 * 24 * time.Hour
	// fewUses is more calls than one renewal of the CA certificate makes: key, signature, the signer's chain, removal.
	fewUses = 6
)

// tokenSource is a source that uses a token from a Secret (tokenSecretRef).
type tokenSource struct {
	*source

	// counted is the hash of a token whose uses are counted. It is not looked up twice, since that costs a use.
	counted [sha256.Size]byte
	// accepted is the hash of the token that was looked up last.
	accepted [sha256.Size]byte
}

// CheckToken implements ca.TokenUser.
func (s *tokenSource) CheckToken(ctx context.Context, now time.Time) ca.TokenCheck {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	found, err := s.lookUpToken(ctx)
	if err != nil {
		return unknownToken(err, found.hash == s.accepted)
	}
	s.accepted = found.hash
	if found.same {
		return ca.TokenCheck{Next: found.next()}
	}
	check := ca.TokenCheck{Next: found.next(), Known: true, Reason: ca.TokenExpires}
	s.counted = [sha256.Size]byte{}
	if found.Uses != 0 {
		s.counted = found.hash
	}
	if found.TTL > 0 {
		check.NotAfter = now.Add(found.TTL)
	}
	if found.renewed {
		check.RenewedFor = found.TTL
	}
	message, soon := found.warning(s.secretName(s.spec.TokenSecretRef.Name), now)
	if soon {
		check.Problem, check.Next = message, min(check.Next, tokenReplaced)
	} else {
		check.Warning = message
	}
	return check
}

// unknownToken is for a failed lookup. A token that is of no use any more is a problem before it is needed; one without the
// right to look itself up may be as good as any, unless it had that right before: OpenBao, and Vault before 1.17, answer alike to
// both.
func unknownToken(err error, accepted bool) ca.TokenCheck {
	check := ca.TokenCheck{Next: tokenRetry, Reason: ca.ReasonOf(err)}
	switch check.Reason {
	case string(client.NotAuthorized), ca.TokenUnavailable:
		check.Problem = err.Error()
	case string(client.PolicyDenies):
		if accepted {
			check.Reason = string(client.NotAuthorized)
			check.Problem = fmt.Sprintf("the token of spec.agentCa.vault.tokenSecretRef was accepted before and is refused now: it has expired or was revoked, or its policies have changed; put a new one there: %v", err)
			break
		}
		check.Known, check.Next = true, check.Next+tokenPause
		check.Info = "The agent uses the token of spec.agentCa.vault.tokenSecretRef, but cannot renew it or watch its end: " + err.Error()
	default:
		check.Err = err
	}
	return check
}

// tokenState is what Vault reports about a token.
type tokenState struct {
	client.Token
	// renewed is true after a renewal; capped is true when that gave less than the token was made for: no renewal moves its
	// end.
	renewed, capped bool
	// same is true for a token whose uses are counted and that was looked up before: nothing else is known.
	same bool
	hash [sha256.Size]byte
}

// renewBelow is the part of a token's life that remains when it is renewed.
const renewBelow = 2.0 / 3

// lookUpToken looks up the token, and renews it where that is due and possible. It skips one whose uses are counted.
// With an error, the state has at most the hash.
func (s *tokenSource) lookUpToken(ctx context.Context) (*tokenState, error) {
	found := &tokenState{}
	config, err := s.config(ctx)
	if err != nil {
		return nil, err
	}
	read := config.Token
	config.Token = func(ctx context.Context) (string, error) {
		token, err := read(ctx)
		found.hash = sha256.Sum256([]byte(token))
		return token, err
	}
	connection, err := client.New(config)
	if err != nil {
		return found, err
	}
	session, err := connection.Login(ctx) // sends nothing: there is a token already
	if err != nil {
		return found, err
	}
	defer func() { _ = session.Close(ctx) }() // revokes nothing, for the same reason
	if found.same = found.hash == s.counted; found.same {
		return found, nil
	}
	token, err := session.LookupToken(ctx)
	if err != nil {
		return found, err
	}
	found.Token = *token
	if !token.Renewable || token.Uses != 0 || token.TTL == 0 || float64(token.TTL) > renewBelow*float64(token.Life) {
		return found, nil
	}
	ttl, err := session.RenewToken(ctx)
	if err != nil {
		if denied, ok := errors.AsType[*client.Error](err); ok && denied.Kind == client.PolicyDenies {
			found.capped = true // it may look itself up, and not renew itself
			return found, nil
		}
		return found, err
	}
	found.renewed, found.capped = true, float64(ttl) < .9*float64(token.Life)
	if !token.Expires.IsZero() {
		found.Expires = token.Expires.Add(ttl - token.TTL)
	}
	found.TTL = ttl
	return found, nil
}

// next is the time until the next check: a half of what remains.
func (t *tokenState) next() time.Duration {
	if t.TTL == 0 || t.Uses != 0 {
		return tokenPause
	}
	return min(max(t.TTL/2, tokenFloor), tokenPause)
}

// end is the token's end, in a form that stays the same from one check to the next.
func (t *tokenState) end(now time.Time) time.Time {
	if t.Expires.IsZero() {
		return now.Add(t.TTL).Truncate(time.Minute)
	}
	return t.Expires.Truncate(time.Minute)
}

// warning returns what a person must do about the token, if anything; soon is true when that cannot wait.
func (t *tokenState) warning(secret string, now time.Time) (message string, soon bool) {
	const periodic = "replace it before then, for example by a periodic token (vault token create -orphan -period=24h), which the agent renews"
	switch {
	case t.Uses != 0:
		return fmt.Sprintf("the token in %s allows a limited number of calls (num_uses), and each renewal of istiod's CA makes up to %d; replace it by a token without that limit", secret, fewUses-1), t.Uses < fewUses
	case t.TTL == 0 || t.Renewable && !t.capped:
		return "", false
	}
	why := "it is not renewable"
	switch {
	case t.Batch:
		why = "it is a batch token"
	case t.Renewable:
		why = "it has reached its maximum TTL, or may not renew itself (auth/token/renew-self)"
	}
	return fmt.Sprintf("the token in %s ends at %s, after which no CA certificate can be renewed: %s; %s", secret, t.end(now).UTC().Format(time.RFC3339), why, periodic),
		t.TTL <= min(tokenLead, t.Life/3)
}
