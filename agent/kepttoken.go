// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/vault"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const (
	// tokenTimeout is for all calls of one look at a kept token: a Vault that hangs must not keep the agent from its work.
	tokenTimeout = 10 * time.Second
	// tokenPause is the longest time between two looks, in which a new token in the Secret is noticed.
	tokenPause = time.Hour
	// tokenFloor is the shortest, whatever Vault answers.
	tokenFloor = 5 * time.Second
	// tokenReplaced is the longest time between two looks while the status reports that the token must be replaced.
	tokenReplaced = 5 * time.Minute
	// tokenLead is the most time before the end of a token that the status reports it.
	tokenLead = 7 * 24 * time.Hour
	// fewUses is more calls than one renewal of the CA certificate takes: key, signature, the signer's chain, removal.
	fewUses = 6
)

// keptToken is what the agent knows of Vault's token in a Secret (tokenSecretRef).
type keptToken struct {
	// digest is of the specification that names it.
	digest string
	// due is when to look at it again.
	due time.Time
	// limited is the hash of a token whose uses are counted: it is not looked up twice, since that costs a use.
	limited [sha256.Size]byte
}

// tokenLook is a look at a kept token.
type tokenLook struct {
	vault.Token
	// renewed is true after a renewal; capped is true when that gave less than the token was made for: it has an end that
	// no renewal moves.
	renewed, capped bool
	// same is true for a token whose uses are counted and that was looked up before: nothing else is known.
	same bool
	hash [sha256.Size]byte
}

// renewBelow is the part of a token's life that remains when it is renewed.
const renewBelow = 2.0 / 3

// lookAtToken looks up Vault's token of a specification, and renews it where that is due and possible. One that has the
// hash of a token whose uses are counted is left alone.
func (i *Issuer) lookAtToken(ctx context.Context, certificate *certificatesv1.IssuedCertificate, limited [sha256.Size]byte) (*tokenLook, error) {
	if err := i.Permit(certificate); err != nil {
		return nil, err
	}
	found, config := &tokenLook{}, i.config(certificate)
	read := config.Token
	config.Token = func(ctx context.Context) (string, error) {
		token, err := read(ctx)
		found.hash = sha256.Sum256([]byte(token))
		return token, err
	}
	client, err := vault.New(config)
	if err != nil {
		return nil, err
	}
	session, err := client.Login(ctx) // sends nothing: there is a token already
	if err != nil {
		return nil, err
	}
	defer func() { _ = session.Close(ctx) }() // revokes nothing, for the same reason
	if found.same = found.hash == limited; found.same {
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
		if denied, ok := errors.AsType[*vault.Error](err); ok && denied.Kind == vault.PolicyDenies {
			found.capped = true // it may found itself up, and not renew itself
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

// next is when to look again: at half of what remains.
func (l *tokenLook) next(now time.Time) time.Time {
	if l.TTL == 0 || l.Uses != 0 {
		return now.Add(tokenPause)
	}
	return now.Add(min(max(l.TTL/2, tokenFloor), tokenPause))
}

// end is the token's end, in a form that stays the same from one look to the next.
func (l *tokenLook) end(now time.Time) time.Time {
	if l.Expires.IsZero() {
		return now.Add(l.TTL).Truncate(time.Minute)
	}
	return l.Expires.Truncate(time.Minute)
}

// warning is what a person must do about the token, if anything; soon is true when that cannot wait.
func (l *tokenLook) warning(secret string, now time.Time) (message string, soon bool) {
	const periodic = "put another token there before then, such as a periodic one (vault token create -orphan -period=24h), which the agent keeps alive"
	switch {
	case l.Uses != 0:
		return fmt.Sprintf("the token in %s is good for a limited number of calls (num_uses), and each renewal of istiod's CA makes up to %d; put a token without that limit there", secret, fewUses-1), l.Uses < fewUses
	case l.TTL == 0 || l.Renewable && !l.capped:
		return "", false
	}
	why := "it is not renewable"
	switch {
	case l.Batch:
		why = "it is a batch token"
	case l.Renewable:
		why = "it has reached its maximum TTL, or may not renew itself (auth/token/renew-self)"
	}
	return fmt.Sprintf("the token in %s ends at %s, and then no CA certificate can be renewed: %s; %s", secret, l.end(now).UTC().Format(time.RFC3339), why, periodic),
		l.TTL <= min(tokenLead, l.Life/3)
}

// keepToken looks after Vault's token in a Secret: it renews the token while it can be, and warns before it ends.
func (a *Agent) keepToken(ctx context.Context, now time.Time) {
	if a.wanted == nil || a.wanted.Spec.AgentCA.Vault.TokenSecretRef == nil {
		a.token, a.problems.token = keptToken{}, problem{}
		a.Metrics.tokenNotAfter.Set(0)
		return
	}
	if d := a.state.Wanted.Digest; a.token.digest != d {
		a.token = keptToken{digest: d}
	}
	if now.Before(a.token.due) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	found, err := a.Issuer.lookAtToken(ctx, a.wanted, a.token.limited)
	if err != nil {
		a.token.due = now.Add(look)
		a.tokenUnknown(err)
		return
	}
	a.token.due = found.next(now)
	if found.same {
		return
	}
	a.token.limited = [sha256.Size]byte{}
	if found.Uses != 0 {
		a.token.limited = found.hash
	}
	secret := a.Issuer.config(a.wanted).TokenFrom
	a.Metrics.tokenNotAfter.Set(0)
	if found.TTL > 0 {
		a.Metrics.tokenNotAfter.Set(float64(now.Add(found.TTL).Unix()))
	}
	if found.renewed {
		a.Log.Info("renewed Vault's token", "of", secret, "validFor", found.TTL.String())
	}
	message, soon := found.warning(secret, now)
	switch {
	case soon:
		a.token.due = now.Add(min(found.next(now).Sub(now), tokenReplaced)) // somebody replaces it now, it is hoped
		a.trouble(&a.problems.token, reasonTokenExpires, message)
		return
	case message != "":
		a.tell(true, reasonTokenExpires, message)
	}
	a.problems.token = problem{}
}

// tokenUnknown is for a token that cannot be looked up. One that is of no use any more is a problem before it is needed;
// one without the right to look itself up may be as good as any.
func (a *Agent) tokenUnknown(err error) {
	if failed, ok := errors.AsType[*vault.Error](err); ok {
		switch failed.Kind {
		case vault.NotAuthorized:
			a.trouble(&a.problems.token, string(failed.Kind), err.Error())
		case vault.PolicyDenies:
			a.problems.token = problem{}
			a.token.due = a.token.due.Add(tokenPause)
			a.tell(false, string(failed.Kind), "the agent uses the token of spec.agentCa.vault.tokenSecretRef, but cannot renew it or watch its end: "+err.Error())
		default: // an attempt to issue reports the same
			a.Log.V(1).Info("Vault's token could not be looked up", "cause", err.Error())
		}
		return
	}
	if _, ok := errors.AsType[*tokenError](err); ok {
		a.trouble(&a.problems.token, reasonTokenUnavailable, err.Error())
	}
}
