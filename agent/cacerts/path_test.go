// SPDX-License-Identifier: Apache-2.0

package cacerts

import (
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// Vault's ca_chain holds all issuers of a mount that are related to the signer, not one line of them.
func TestVerifyBuildsThePath(t *testing.T) {
	h := newHierarchy(t)
	leafKey := h.signed.key
	named := func(name string, change ...func(*x509.Certificate)) x509.Certificate {
		template := authority(name, -1)
		for _, c := range change {
			c(&template)
		}
		return template
	}
	expired := func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) }
	below := func(issuer *ca) *ca { return sign(t, requestedCA(), leafKey, issuer) }

	// A root that was reissued with its own key.
	key := newKey(t, elliptic.P256())
	oldRoot, newRoot, ended := sign(t, named("my-org"), key, nil), sign(t, named("my-org"), key, nil), sign(t, named("my-org", expired), key, nil)
	reissued := below(newRoot)
	// Root b, which root a has cross-signed, and the reverse.
	a, b := sign(t, named("root-a"), newKey(t, elliptic.P256()), nil), sign(t, named("root-b"), newKey(t, elliptic.P256()), nil)
	bByA, aByB, bByAEnded := sign(t, named("root-b"), b.key, a), sign(t, named("root-a"), a.key, b), sign(t, named("root-b", expired), b.key, a)
	crossed := below(b)
	// A root that was replaced by one of the same name with another key, and the new key signed by the old one.
	successor := sign(t, named("my-org"), newKey(t, elliptic.P256()), nil)
	successorByOld := sign(t, named("my-org"), successor.key, oldRoot)
	succeeded := below(successor)
	// An issuer that was reissued with its own key.
	middle := sign(t, authority("middle", 1), newKey(t, elliptic.P256()), a)
	middleTemplate := authority("middle", 1)
	expired(&middleTemplate)
	middleEnded := sign(t, middleTemplate, middle.key, a)
	deep := below(middle)

	type cas = []*ca
	for name, test := range map[string]struct {
		certificate        *ca
		issuing            *ca
		chain              cas
		trusted, published cas
		pinned, preferred  cas
		issuers            cas
		root               *ca
		refused            string
	}{
		"reissued root, the old one signs":                {certificate: reissued, issuing: oldRoot, chain: cas{oldRoot, newRoot}, root: oldRoot},
		"reissued root, the new one signs":                {certificate: reissued, issuing: newRoot, chain: cas{newRoot, oldRoot}, root: newRoot},
		"reissued root, the old one is published":         {certificate: reissued, issuing: newRoot, chain: cas{newRoot, oldRoot}, published: cas{oldRoot}, root: oldRoot},
		"reissued root, the new one is published":         {certificate: reissued, issuing: oldRoot, chain: cas{oldRoot, newRoot}, published: cas{newRoot}, root: newRoot},
		"reissued root, the published one is left out":    {certificate: reissued, issuing: newRoot, chain: cas{newRoot}, published: cas{oldRoot}, root: oldRoot},
		"reissued root, the old one is trusted":           {certificate: reissued, issuing: newRoot, chain: cas{newRoot, oldRoot}, trusted: cas{oldRoot}, root: oldRoot},
		"reissued root, the new one is not published yet": {certificate: reissued, chain: cas{newRoot, oldRoot}, trusted: cas{oldRoot, newRoot}, published: cas{oldRoot}, root: oldRoot},
		"reissued root, both are published":               {certificate: reissued, chain: cas{newRoot, oldRoot}, trusted: cas{oldRoot, newRoot}, published: cas{oldRoot, newRoot}, root: newRoot},
		"reissued root, the published one has expired":    {certificate: reissued, issuing: newRoot, chain: cas{newRoot, ended}, published: cas{ended}, root: newRoot},
		"reissued root, the first one has expired":        {certificate: reissued, issuing: ended, chain: cas{ended, newRoot}, root: newRoot},

		"cross-signed root":                               {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, root: b},
		"cross-signed root, the other one is published":   {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, published: cas{a}, issuers: cas{bByA}, root: a},
		"cross-signed root, the other one is trusted":     {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, trusted: cas{a}, issuers: cas{bByA}, root: a},
		"cross-signed root, in a line":                    {certificate: crossed, issuing: bByA, chain: cas{bByA, a}, issuers: cas{bByA}, root: a},
		"cross-signed root, in a line made by hand":       {certificate: crossed, issuing: b, chain: cas{bByA, a}, issuers: cas{bByA}, root: a},
		"cross-signed root, in a line, is published":      {certificate: crossed, issuing: bByA, chain: cas{bByA, a}, published: cas{b}, root: b},
		"cross-signed root, the signature has expired":    {certificate: crossed, issuing: b, chain: cas{b, bByAEnded, a}, published: cas{a}, root: b},
		"cross-signed root, in any order":                 {certificate: crossed, chain: cas{a, bByA, b}, published: cas{a}, issuers: cas{bByA}, root: a},
		"roots that cross-signed each other":              {certificate: crossed, chain: cas{bByA, aByB, b, a}, root: a, issuers: cas{bByA}},
		"roots that cross-signed each other, none known":  {certificate: crossed, chain: cas{bByA, aByB}, refused: NoRoot},
		"new key signed by the old one":                   {certificate: succeeded, chain: cas{successorByOld, oldRoot}, issuers: cas{successorByOld}, root: oldRoot},
		"new key signed by the old one, with its own":     {certificate: succeeded, chain: cas{successor, successorByOld, oldRoot}, published: cas{oldRoot}, issuers: cas{successorByOld}, root: oldRoot},
		"reissued issuer, the first one has expired":      {certificate: deep, issuing: middleEnded, chain: cas{middleEnded, middle, a}, issuers: cas{middle}, root: a},
		"without the root, which is published":            {certificate: deep, issuing: middle, chain: cas{middle}, published: cas{b, a}, issuers: cas{middle}, root: a},
		"without the root, another of its name published": {certificate: succeeded, chain: nil, published: cas{oldRoot}, refused: NoRoot},
		"another root of its name":                        {certificate: succeeded, chain: cas{oldRoot}, refused: badChain},
		"all expired":                                     {certificate: reissued, issuing: ended, chain: cas{ended}, refused: notValidNow},
		"pinned root, which completes the answer":         {certificate: deep, issuing: middle, chain: cas{middle}, pinned: cas{b, a}, issuers: cas{middle}, root: a},
		"pinned root, which is the answer's":              {certificate: deep, issuing: middle, chain: cas{middle, a}, pinned: cas{a}, issuers: cas{middle}, root: a},
		"pinned root, another one answers":                {certificate: deep, issuing: middle, chain: cas{middle, a}, pinned: cas{b}, refused: RootNotPinned},
		"pinned root of the name of the missing one":      {certificate: succeeded, chain: nil, pinned: cas{oldRoot}, refused: NoRoot},
		"pinned root, cross-signed, not the first":        {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, pinned: cas{a}, issuers: cas{bByA}, root: a},
		"pinned root, another one is published":           {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, pinned: cas{a}, published: cas{b}, issuers: cas{bByA}, root: a},
		"pinned roots, the published one among them":      {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, pinned: cas{a, b}, published: cas{b}, root: b},
		"pinned root has expired":                         {certificate: reissued, issuing: ended, chain: cas{ended, newRoot}, pinned: cas{ended}, refused: notValidNow},
		"preferred root, reissued":                        {certificate: reissued, issuing: newRoot, chain: cas{newRoot}, preferred: cas{oldRoot}, root: oldRoot},
		"preferred root, cross-signed":                    {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, preferred: cas{a}, issuers: cas{bByA}, root: a},
		"preferred root that has nothing to do with it":   {certificate: deep, issuing: middle, chain: cas{middle, a}, preferred: cas{successor, b}, issuers: cas{middle}, root: a},
		"preferred root completes nothing":                {certificate: deep, issuing: middle, chain: cas{middle}, preferred: cas{a}, refused: NoRoot},
		"preferred root that is not pinned":               {certificate: crossed, issuing: b, chain: cas{b, bByA, a}, preferred: cas{a}, pinned: cas{b}, root: b},
		"issuing CA that did not sign":                    {certificate: crossed, issuing: a, chain: cas{b, bByA}, refused: badChain},
	} {
		t.Run(name, func(t *testing.T) {
			answer := Issued{Key: keyPEM(t, leafKey), Certificate: certPEM(test.certificate), Chain: [][]byte{certPEM(test.certificate)}}
			if test.issuing != nil {
				answer.IssuingCA = certPEM(test.issuing)
			}
			for _, c := range test.chain {
				answer.Chain = append(answer.Chain, certPEM(c))
			}
			request := requested()
			request.Trusted, request.Published = certificates(test.trusted), certificates(test.published)
			request.Pinned, request.Preferred = certificates(test.pinned), certificates(test.preferred)
			set, err := Verify(answer, request)
			if test.refused != "" {
				if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Reason != test.refused {
					t.Fatalf("got %v, want %s", err, test.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(set.issuers, certificates(test.issuers), (*x509.Certificate).Equal) || len(set.roots) != 1 || !set.roots[0].Equal(test.root.Certificate) {
				t.Errorf("path through %s to %s", pemcerts.Names(set.issuers), pemcerts.Names(set.roots))
			}
			d := open(t, t.TempDir())
			if err := d.Publish(set, nil); err != nil {
				t.Fatal(err)
			}
			if again, err := d.Published(now); err != nil || !again.Root().Equal(test.root.Certificate) {
				t.Errorf("not read back: %v", err)
			}
		})
	}
}

func certificates(cas []*ca) (all []*x509.Certificate) {
	for _, c := range cas {
		all = append(all, c.Certificate)
	}
	return all
}

// Old and new roots of one key are published together while the root changes: the new one counts.
func TestRootOfReissuedRoots(t *testing.T) {
	h := newHierarchy(t)
	reissued := sign(t, authority("my-org", -1), h.root.key, nil)
	set, err := Verify(h.answer(t), requested())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		roots []*x509.Certificate
		want  *ca
	}{
		"both":     {[]*x509.Certificate{h.root.Certificate, reissued.Certificate}, reissued},
		"new only": {[]*x509.Certificate{reissued.Certificate}, reissued},
		"old only": {[]*x509.Certificate{h.root.Certificate}, h.root},
	} {
		t.Run(name, func(t *testing.T) {
			changed, err := set.WithRoots(test.roots)
			if err != nil || !changed.Root().Equal(test.want.Certificate) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Certificates that sign each other crosswise form more paths than anyone can verify.
func TestFindPathsIsBounded(t *testing.T) {
	var keys []*ca
	for range 4 {
		keys = append(keys, sign(t, authority("ring", -1), newKey(t, elliptic.P256()), nil))
	}
	var ring []*x509.Certificate
	for i := range maxChain {
		subject, issuer := keys[i%4], keys[(i+1+i/4%3)%4]
		ring = append(ring, sign(t, authority("ring", -1), subject.key, issuer).Certificate)
	}
	leaf := sign(t, requestedCA(), newKey(t, elliptic.P256()), keys[0]).Certificate
	many := slices.Clone(ring[:8])
	for range 8 {
		many = append(many, sign(t, authority("ring", -1), keys[3].key, nil).Certificate)
	}
	for name, issuers := range map[string][]*x509.Certificate{"no root": ring, "many roots": many} {
		t.Run(name, func(t *testing.T) {
			search := &pathSearch{issuers: issuers, answered: len(issuers), signatures: map[link]error{}}
			search.extend([]*x509.Certificate{leaf})
			// Steps beyond the bound end at once; each of the allowed ones has a candidate per issuer at most.
			if len(search.signatures) > (maxChain+1)*maxChain || search.steps > maxSteps*maxChain || len(search.paths) > maxPaths {
				t.Errorf("%d signatures, %d steps, %d paths", len(search.signatures), search.steps, len(search.paths))
			}
			if (len(search.paths) > 0) != (name == "many roots") {
				t.Errorf("%d paths", len(search.paths))
			}
		})
	}
	if _, err := findPaths(leaf, ring, nil); err == nil {
		t.Error("a path without a root")
	}
}

// The signature of an anchor proves nothing, and neither istiod nor proxies verify it; other signatures must be strong.
func TestVerifySHA1(t *testing.T) {
	h := newHierarchy(t)
	rsaKey := newRSA(t, 2048)
	weak := func(algorithm x509.SignatureAlgorithm) x509.Certificate {
		template := authority("my-org", -1)
		template.SignatureAlgorithm = algorithm
		return template
	}
	for name, answer := range map[string]Issued{
		"RSA root": h.under(t, weak(x509.SHA1WithRSA), rsaKey),
		"EC root":  h.under(t, weak(x509.ECDSAWithSHA1), newKey(t, elliptic.P256())),
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Verify(answer, requested())
			if err != nil {
				t.Fatal(err)
			}
			if warnings := set.Warnings(); len(warnings) != 1 || !strings.Contains(warnings[0], "O=my-org") || !strings.Contains(warnings[0], "SHA-1") {
				t.Errorf("warnings %q", warnings)
			}
			root := answer.Chain[1]
			if roots, err := pemcerts.ParseRoots(root); err != nil || len(roots) != 1 {
				t.Errorf("not a root to trust: %v", err)
			}
			if _, err := Adopt(Issued{Key: answer.Key, Certificate: answer.Certificate, Chain: answer.Chain}, set.roots, []string{istiod}, now); err != nil {
				t.Errorf("not adopted: %v", err)
			}
			d := open(t, t.TempDir())
			if err := d.Publish(set, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Published(now); err != nil {
				t.Errorf("not read back: %v", err)
			}
		})
	}
	t.Run("issuer", func(t *testing.T) {
		template := authority("middle", 1)
		template.SignatureAlgorithm = x509.ECDSAWithSHA1
		refused(t, h.through(t, template), badChain, "O=middle", "SHA1")
	})
	t.Run("certificate", func(t *testing.T) {
		refused(t, h.direct(t, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 }), badChain, "SHA1")
	})
	t.Run("signature of a root that is damaged", func(t *testing.T) {
		answer := h.under(t, weak(x509.ECDSAWithSHA1), newKey(t, elliptic.P256()))
		root, err := parseOne("root", answer.Chain[1])
		if err != nil {
			t.Fatal(err)
		}
		root.Raw[len(root.Raw)-1] ^= 1
		answer.Chain[1] = pemcerts.Encode(root)
		refused(t, answer, NoRoot, "O=my-org", "not signed by its own key")
	})
}

// A CA in a Secret may hold a cross-signed certificate in its chain.
func TestAdoptBuildsThePath(t *testing.T) {
	h := newHierarchy(t)
	other := sign(t, authority("other", -1), newKey(t, elliptic.P256()), nil)
	cross := sign(t, authority("my-org", -1), h.root.key, other)
	chain := certPEM(h.signed, h.root, cross, other)
	for i, trusted := range []*ca{h.root, other} {
		t.Run(fmt.Sprint(trusted.Subject), func(t *testing.T) {
			set, err := Adopt(Issued{Key: keyPEM(t, h.signed.key), Certificate: certPEM(h.signed), Chain: [][]byte{chain}}, []*x509.Certificate{trusted.Certificate}, []string{istiod}, now)
			if err != nil || len(set.issuers) != i || !set.Root().Equal(trusted.Certificate) {
				t.Errorf("got %v", err)
			}
		})
	}
}
