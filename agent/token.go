// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/notices"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const (
	// tokenTimeout is for all calls of one check: a Vault that hangs must not block the agent.
	tokenTimeout = 10 * time.Second
	// tokenPause is the longest time between two checks, within which a new token in the Secret is noticed.
	tokenPause = time.Hour
	// tokenFloor is the shortest, whatever Vault reports.
	tokenFloor = 5 * time.Second
	// tokenReplaced is the longest time between two checks while the status reports that the token must be replaced.
	tokenReplaced = 5 * time.Minute
	// tokenLead is the longest time before the end of a token that the status reports it.
	tokenLead = 7 * 24 * time.Hour
	// fewUses is more calls than one renewal of the CA certificate makes: key, signature, the signer's chain, removal.
	fewUses = 6
)

// tokenCheck is the result of a check of the token in a Secret (tokenSecretRef).
type tokenCheck struct {
	next time.Duration // until the next check
	// known is set where the token's state is known, and notAfter is its end then, zero for none.
	known    bool
	notAfter time.Time
	// renewedFor is the new TTL after a renewal.
	renewedFor time.Duration
	// reason is the key of problem, warning or info, of which at most one is set.
	reason, problem, warning, info string
	// counted is the hash of a token whose uses are counted. It is not looked up twice, since that costs a use.
	counted [sha256.Size]byte
	err     error // of a lookup, where an attempt to issue would report the same
}

// checkToken checks the CA's token, and notifies people of its state.
func (a *Agent) checkToken(ctx context.Context, now time.Time) machine.Event {
	found := a.Source.checkToken(ctx, a.desired, a.token, now)
	a.token = found
	if found.known {
		a.Metrics.Token(found.notAfter)
	}
	if found.renewedFor > 0 {
		a.Log.Info("Renewed the CA's token", "validFor", found.renewedFor.String())
	}
	switch {
	case found.err != nil:
		a.Log.V(1).Info("Failed to look up the CA's token", "err", found.err.Error())
	case found.problem != "":
		a.notices.Set(notices.Token, found.reason, found.problem)
	case found.known:
		a.notices.Clear(notices.Token)
		if found.warning != "" {
			a.notices.Warn(found.reason, found.warning)
		}
		if found.info != "" {
			a.notices.Info(found.reason, found.info)
		}
	}
	return machine.TokenChecked{Next: now.Add(found.next)}
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

// lookUpToken looks up Vault's token of a specification, and renews it where that is due and possible. It skips the one with
// the hash of a token whose uses are counted.
func (i *Issuer) lookUpToken(ctx context.Context, certificate *certificatesv1.IssuedCertificate, counted [sha256.Size]byte) (*tokenState, error) {
	if err := i.permit(certificate); err != nil {
		return nil, err
	}
	found, config := &tokenState{}, i.config(certificate)
	read := config.Token
	config.Token = func(ctx context.Context) (string, error) {
		token, err := read(ctx)
		found.hash = sha256.Sum256([]byte(token))
		return token, err
	}
	connection, err := client.New(config)
	if err != nil {
		return nil, err
	}
	session, err := connection.Login(ctx) // sends nothing: there is a token already
	if err != nil {
		return nil, err
	}
	defer func() { _ = session.Close(ctx) }() // revokes nothing, for the same reason
	if found.same = found.hash == counted; found.same {
		return found, nil
	}
	token, err := session.LookupToken(ctx)
	if err != nil {
		return nil, err
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
		return nil, err
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
	return fmt.Sprintf("the token in %s ends at %s, after which no CA certificate can be renewed: %s; %s", secret, utc(t.end(now)), why, periodic),
		t.TTL <= min(tokenLead, t.Life/3)
}

// checkToken implements source.
func (i *Issuer) checkToken(ctx context.Context, certificate *certificatesv1.IssuedCertificate, last tokenCheck, now time.Time) tokenCheck {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	found, err := i.lookUpToken(ctx, certificate, last.counted)
	if err != nil {
		return unknownToken(err, last)
	}
	if found.same {
		return tokenCheck{next: found.next(), counted: last.counted}
	}
	check := tokenCheck{next: found.next(), known: true, reason: notices.TokenExpires}
	if found.Uses != 0 {
		check.counted = found.hash
	}
	if found.TTL > 0 {
		check.notAfter = now.Add(found.TTL)
	}
	if found.renewed {
		check.renewedFor = found.TTL
	}
	message, soon := found.warning(i.config(certificate).TokenFrom, now)
	if soon {
		check.problem, check.next = message, min(check.next, tokenReplaced)
	} else {
		check.warning = message
	}
	return check
}

// unknownToken is for a failed lookup. A token that is of no use any more is a problem before it is needed; one without the
// right to look itself up may be as good as any.
func unknownToken(err error, last tokenCheck) tokenCheck {
	check := tokenCheck{next: machine.PollInterval, counted: last.counted, reason: reasonOf(err)}
	switch check.reason {
	case string(client.NotAuthorized), notices.TokenUnavailable:
		check.problem = err.Error()
	case string(client.PolicyDenies):
		check.known, check.next = true, check.next+tokenPause
		check.info = "The agent uses the token of spec.agentCa.vault.tokenSecretRef, but cannot renew it or watch its end: " + err.Error()
	default:
		check.err = err
	}
	return check
}
