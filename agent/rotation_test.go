// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

func encodeAll(certificates ...*x509.Certificate) (text []byte) {
	for _, each := range certificates {
		text = append(text, encode(each)...)
	}
	return text
}

// trusting is the specification with roots to trust.
func trusting(roots ...*x509.Certificate) *certificatesv1.IssuedCertificate {
	c := named("mine", 1)
	c.Annotations = map[string]string{certificatesv1.TrustedRootsAnnotation: string(encodeAll(roots...))}
	return c
}

// Which answers of Vault's are published, by what istiod has and what it is to trust.
func TestARootIsSignedUnderOnlyOnceItIsTrusted(t *testing.T) {
	before, after := newSet(t), newSet(t)
	was, is := before.Root(), after.Root()
	stranger := newSet(t).Root()
	with := func(set *cacerts.Set, roots ...*x509.Certificate) *cacerts.Set {
		changed, err := set.WithRoots(roots)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	for name, test := range map[string]struct {
		held    *cacerts.Set        // nil: istiod has not started
		trusted []*x509.Certificate // nil: nothing is said
		single  bool                // istiod does not take other roots while it runs
		refused string
		offered bool
		roots   []*x509.Certificate
	}{
		"nothing published, nothing said":          {roots: []*x509.Certificate{is}},
		"nothing published, both to trust":         {trusted: []*x509.Certificate{was, is}, roots: []*x509.Certificate{was, is}},
		"nothing published, its own not to trust":  {trusted: []*x509.Certificate{was, stranger}, refused: "not among the roots", offered: true},
		"another root, nothing said":               {held: before, refused: "the CA's root has changed", offered: true},
		"another root, to trust and not there yet": {held: before, trusted: []*x509.Certificate{was, is}, refused: "the CA's root has changed", offered: true},
		"another root, both are trusted":           {held: with(before, was, is), trusted: []*x509.Certificate{was, is}, roots: []*x509.Certificate{was, is}},
		"both are trusted, by an istiod that takes no others": {
			held: with(before, was, is), trusted: []*x509.Certificate{was, is}, single: true, roots: []*x509.Certificate{was, is},
		},
		"the old one dropped with it": {held: with(before, was, is), roots: []*x509.Certificate{is}},
		"the old one dropped with it, by an istiod that takes no others": {
			held: with(before, was, is), single: true, refused: "ISTIO_MULTIROOT_MESH",
		},
		"roots that are no part of each other": {
			held: with(before, was, is), trusted: []*x509.Certificate{stranger, is}, refused: "in their order",
		},
		"in another order": {held: with(before, was, is), trusted: []*x509.Certificate{is, was}, refused: "in their order"},
	} {
		t.Run(name, func(t *testing.T) {
			a, specifications, _ := newAgent(t)
			a.roots.MultiRoot = !test.single
			specifications.certificate = named("mine", 1)
			if test.trusted != nil {
				specifications.certificate = trusting(test.trusted...)
			}
			a.observe(time.Now())
			var held *cacerts.Set
			if test.held != nil {
				one := *test.held // which keeps its key
				held = &one
				put(t, a, held, note{})
			}
			err := publish(a, after, note{})
			if (err != nil) != (test.refused != "") || err != nil && !strings.Contains(err.Error(), test.refused) {
				t.Fatalf("got %v, want %q", err, test.refused)
			}
			if (a.state.RejectedRoot() == after.RootFingerprint()) != test.offered {
				t.Errorf("offered %q", a.state.RejectedRoot())
			}
			if err != nil {
				if a.set != held {
					t.Error("what is published was replaced")
				}
				if _, again := a.state.Retry(); test.held != nil && time.Until(again) > time.Hour || !a.state.RootRejected() {
					t.Errorf("tried again in %s", time.Until(again))
				}
				return
			}
			if published, err := a.Directory.Published(time.Now()); err != nil || !slices.EqualFunc(published.Trust().Roots, test.roots, (*x509.Certificate).Equal) {
				t.Errorf("published with %d roots: %v", len(published.Trust().Roots), err)
			}
		})
	}
}

// A root that was reissued with its own key is the same CA: certificates lead to the old and to the new one. istiod signs
// under it as long as it publishes one of them, and takes the other as any new root.
func TestReissuedRootIsPublishedLikeAnother(t *testing.T) {
	set, old, reissued := newReissued(t)
	for name, test := range map[string]struct {
		trusted   []*x509.Certificate
		published []*x509.Certificate
		refused   string
	}{
		"both are to be trusted, the old one is published": {trusted: []*x509.Certificate{old, reissued}, published: []*x509.Certificate{old}},
		"both are published, the old one is dropped":       {trusted: nil, published: []*x509.Certificate{old, reissued}},
		"the old one is published, the new one follows":    {trusted: []*x509.Certificate{reissued}, published: []*x509.Certificate{old}, refused: "the CA's root has changed"},
	} {
		t.Run(name, func(t *testing.T) {
			a, specifications, _ := newAgent(t)
			a.roots.MultiRoot = true
			specifications.certificate = named("mine", 1)
			if test.trusted != nil {
				specifications.certificate = trusting(test.trusted...)
			}
			a.observe(time.Now())
			published, err := set.WithRoots(test.published)
			if err != nil {
				t.Fatal(err)
			}
			put(t, a, published, note{})
			next, err := a.roots.Apply(published)
			if (err != nil) != (test.refused != "") || err != nil && !strings.Contains(err.Error(), test.refused) {
				t.Fatalf("got %v, want %q", err, test.refused)
			}
			if err == nil && !next.Root().Equal(reissued) {
				t.Error("the new root does not count")
			}
		})
	}
}

// istiodServing serves as istiod does: a leaf of the set's certificate, made anew when told to.
func istiodServing(t *testing.T, set *cacerts.Set, key *ecdsa.PrivateKey) (address string, reload func()) {
	t.Helper()
	leafKey := newP256(t)
	var serving atomic.Pointer[tls.Certificate]
	serial := int64(100)
	reload = func() {
		serial++
		leaf := certify(t, &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, set.Certificate(), leafKey, key)
		serving.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw, set.Certificate().Raw}, PrivateKey: leafKey})
	}
	reload()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serving.Load(), nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			_ = connection.(*tls.Conn).Handshake()
			_ = connection.Close()
		}
	}()
	return listener.Addr().String(), reload
}

// With other roots and the same certificate, istiod has read its files once it serves another certificate; the agent
// knows that also after a restart.
func TestOtherRootsAreConfirmedByWhatIstiodServesNext(t *testing.T) {
	dir := t.TempDir()
	a, specifications, reporter := newAgentIn(t, dir)
	a.roots.MultiRoot = true
	specifications.certificate = named("mine", 1)
	a.observe(time.Now())
	set, key := newSetAndKey(t)
	publishAs(t, a, set)
	address, reload := istiodServing(t, set, key)
	a.IstiodAddress = address
	act(t, a, machine.Confirm)

	other := newSet(t).Root()
	specifications.certificate = trusting(set.Root(), other)
	a.observe(time.Now())
	if step := machine.Next(a.state, time.Now()); step.Action != machine.PublishRoots {
		t.Fatalf("the next step is %+v", step)
	}
	act(t, a, machine.PublishRoots)
	if p := a.state.Published(); !slices.Equal(p.Roots, []string{set.RootFingerprint(), pemcerts.Fingerprint(other)}) || p.Root != set.RootFingerprint() {
		t.Errorf("published with roots %v", p.Roots)
	}
	again, _, _ := newAgentIn(t, dir)
	again.IstiodAddress = address
	for name, agent := range map[string]*Agent{"it": a, "the next": again} {
		act(t, agent, machine.Confirm)
		if step := machine.Next(agent.state, time.Now().Add(machine.ConfirmationLimit)); agent.state.Published().Confirmed || step.Action != machine.Republish {
			t.Errorf("%s takes it for read: %+v", name, step)
		}
	}
	reload()
	for name, agent := range map[string]*Agent{"it": a, "the next": again} {
		act(t, agent, machine.Confirm)
		if !agent.state.Published().Confirmed {
			t.Errorf("%s does not see that it was read", name)
		}
	}
	a.report()
	if mine := reporter.status.Certificates[0]; len(mine.TrustedRoots) != 2 || mine.RootFingerprint != set.RootFingerprint() || !mine.Confirmed {
		t.Errorf("reported %+v", mine)
	}
	if !slices.Contains(reporter.events, "mine RootsPublished false") {
		t.Errorf("told %q", reporter.events)
	}
}

// An istiod that takes no other roots while it runs keeps those that it has, and the reason is told.
func TestRootsThatIstiodWouldNotTakeAreNotPublished(t *testing.T) {
	a, specifications, reporter := newAgent(t)
	set, key := newSetAndKey(t)
	specifications.certificate = named("mine", 1)
	a.observe(time.Now())
	publishAs(t, a, set)
	a.IstiodAddress, _ = istiodServing(t, set, key)
	act(t, a, machine.Confirm)
	more := trusting(set.Root(), newSet(t).Root())
	specifications.certificate = more
	a.observe(time.Now())
	act(t, a, machine.PublishRoots)
	if n := len(a.state.Published().Roots); n != 1 || !slices.Contains(reporter.events, "mine RootsRefused true") {
		t.Errorf("published with %d roots; told %q", n, reporter.events)
	}
	if step := machine.Next(a.state, time.Now()); step.Action != machine.Wait {
		t.Errorf("the next step is %+v", step)
	}
	for _, specifications.certificate = range []*certificatesv1.IssuedCertificate{named("mine", 1), more} {
		a.observe(time.Now())
	}
	if step := machine.Next(a.state, time.Now()); step.Action != machine.PublishRoots {
		t.Errorf("the refusal outlives what was refused: %+v", step)
	}
}

// inCluster is an APIServer with one Secret.
type inCluster struct{ secret map[string][]byte }

func (c inCluster) Secret(_ context.Context, namespace, name string) (map[string][]byte, error) {
	if namespace != me.Namespace || name != "istio-ca-secret" {
		return nil, errors.New("no such Secret")
	}
	return c.secret, nil
}

func (c inCluster) ConfigMapValue(context.Context, string, string, string, int) (string, error) {
	return "", errors.New("not asked for")
}

// istiod's CA of until now is taken over from its Secret, whatever kind of CA it is.
func TestTheCAOfUntilNowIsTakenOver(t *testing.T) {
	rootKey := newP256(t)
	self := newAuthority(t, "cluster.local", 1, rootKey)
	intermediate, key := newSetAndKey(t)
	other := newSet(t).Root()
	for name, test := range map[string]struct {
		secret map[string][]byte
		trust  []*x509.Certificate
		want   string
	}{
		"a root of istiod's own": {
			map[string][]byte{istio.CACertFile: encode(self.Certificate), istio.CAKeyFile: encodeKey(t, rootKey)},
			[]*x509.Certificate{self.Certificate, other},
			"",
		},
		"an intermediate with its chain": {
			map[string][]byte{istio.CACertFile: encode(intermediate.Certificate()), istio.CAKeyFile: encodeKey(t, key), istio.CertChainFile: encodeAll(intermediate.Certificate(), intermediate.Root())},
			[]*x509.Certificate{intermediate.Root(), other},
			"",
		},
		"of cert-manager": {
			map[string][]byte{"tls.crt": encodeAll(intermediate.Certificate(), intermediate.Root()), "tls.key": encodeKey(t, key), "ca.crt": encode(intermediate.Root())},
			[]*x509.Certificate{intermediate.Root(), other},
			"",
		},
		"of OpenSSL": {
			map[string][]byte{
				istio.CACertFile: slices.Concat([]byte("Certificate:\n    Data:\n"), encodeAll(intermediate.Certificate(), intermediate.Root()), []byte("\n")),
				istio.CAKeyFile:  slices.Concat([]byte("Bag Attributes\n    localKeyID: 01\n"), encodeKey(t, key)),
			},
			[]*x509.Certificate{intermediate.Root(), other},
			"",
		},
		"without a certificate in it": {
			map[string][]byte{istio.CACertFile: encodeKey(t, rootKey), istio.CAKeyFile: encodeKey(t, rootKey)}, []*x509.Certificate{self.Certificate}, `expected a certificate in "ca-cert.pem"`,
		},
		"with two keys": {
			map[string][]byte{istio.CACertFile: encode(self.Certificate), istio.CAKeyFile: slices.Concat(encodeKey(t, rootKey), encodeKey(t, key))}, []*x509.Certificate{self.Certificate}, `one unencrypted private key in "ca-key.pem"`,
		},
		"without its root among the trusted": {
			map[string][]byte{istio.CACertFile: encode(self.Certificate), istio.CAKeyFile: encodeKey(t, rootKey)},
			[]*x509.Certificate{other},
			"leads to none of the roots",
		},
		"without a key": {
			map[string][]byte{istio.CACertFile: encode(self.Certificate)}, []*x509.Certificate{self.Certificate, other}, `no key "ca-key.pem"`,
		},
		"with another's key": {
			map[string][]byte{istio.CACertFile: encode(self.Certificate), istio.CAKeyFile: encodeKey(t, key)}, []*x509.Certificate{self.Certificate, other}, "the key is not the certificate's",
		},
		"with no roots to trust": {
			map[string][]byte{istio.CACertFile: encode(self.Certificate), istio.CAKeyFile: encodeKey(t, rootKey)}, nil, "is missing; expected the roots to trust",
		},
	} {
		t.Run(name, func(t *testing.T) {
			certificate := trusting(test.trust...)
			certificate.Annotations[certificatesv1.CAFromSecretAnnotation] = "istio-ca-secret"
			a, specifications, _ := newAgent(t)
			a.APIServer, specifications.certificate = inCluster{test.secret}, certificate
			a.observe(time.Now())
			source, adopted := a.nextSource()
			set, _, err := a.obtain(t.Context(), source, adopted, knownRoots{})
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if err == nil && (len(set.Trust().Roots) != len(test.trust) || set.Certificate().CheckSignatureFrom(set.Root()) != nil) {
				t.Errorf("%d roots, led to by %s", len(set.Trust().Roots), set.Certificate().Issuer)
			}
		})
	}
}

func TestRootsThatCannotBeReadAreTold(t *testing.T) {
	set := newSet(t)
	for name, test := range map[string]struct{ text, want string }{
		"no PEM":         {"roots", "not a certificate"},
		"no root":        {string(encode(set.Certificate())), "is not a root"},
		"one twice":      {string(encodeAll(set.Root(), set.Root())), "is there twice"},
		"something more": {string(encode(set.Root())) + "and more", "not a certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			c := named("mine", 1)
			c.Annotations = map[string]string{certificatesv1.TrustedRootsAnnotation: test.text}
			_, _, err := prepare(c)
			bad, ok := errors.AsType[*SpecificationError](err)
			if !ok || bad.Certificate != c || !strings.Contains(err.Error(), "metadata.annotations[istiod-agent.io/trusted-roots]") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
