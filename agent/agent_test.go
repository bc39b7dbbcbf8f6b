// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// told is a Reporter that keeps what it is told.
type told struct {
	events []string
	status certificatesv1.IssuedCertificateStatus
	about  string
}

func (r *told) Status(certificate *certificatesv1.IssuedCertificate, status certificatesv1.IssuedCertificateStatus) {
	r.status, r.about = status, certificate.Name
}

func (r *told) Event(certificate *certificatesv1.IssuedCertificate, warning bool, reason, _ string) {
	r.events = append(r.events, fmt.Sprintf("%s %s %v", certificate.Name, reason, warning))
}

// given are Specifications that a test sets.
type given struct {
	certificate *certificatesv1.IssuedCertificate
	err         error
}

func (g *given) Current() (*certificatesv1.IssuedCertificate, []string, error) {
	return g.certificate, nil, g.err
}
func (g *given) Changed() <-chan struct{} { return nil }

// newAgent is one that was started just now, with nothing published.
func newAgent(t *testing.T) (*Agent, *given, *told) {
	t.Helper()
	return newAgentIn(t, t.TempDir())
}

func newAgentIn(t *testing.T, dir string) (*Agent, *given, *told) {
	t.Helper()
	directory, err := cacerts.Open(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	specifications, reporter := &given{}, &told{}
	a := &Agent{
		Identity: me, Specifications: specifications, Directory: directory, Reporter: reporter,
		Metrics: NewMetrics(), Log: logr.Discard(), WorkloadTTL: day, Issuer: &Issuer{Identity: me},
	}
	if err := a.takeOver(time.Now()); err != nil {
		t.Fatal(err)
	}
	return a, specifications, reporter
}

func named(name string, generation int64) *certificatesv1.IssuedCertificate {
	c, err := certificatesv1.Decode([]byte(specification))
	if err != nil {
		panic(err)
	}
	c.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: "istio-system", Generation: generation}
	c.Spec.SetDefaults()
	return c
}

// An IssuedCertificate that cannot be acted on is told so itself, whether or not one was acted on before.
func TestABadSpecificationIsToldWhereItStands(t *testing.T) {
	for name, before := range map[string]*certificatesv1.IssuedCertificate{"the first": nil, "after a good one": named("mine", 1)} {
		t.Run(name, func(t *testing.T) {
			a, specifications, reporter := newAgent(t)
			if before != nil {
				specifications.certificate = before
				a.observe(time.Now())
			}
			specifications.certificate = nil
			specifications.err = &SpecificationError{Certificate: named("mine", 2), Err: errors.New("spec.hosts: wrong")}
			a.observe(time.Now())
			a.report()
			if want := []string{"mine InvalidSpecification true"}; !slices.Equal(reporter.events, want) {
				t.Errorf("told %q, want %q", reporter.events, want)
			}
			if s := reporter.status; s.State != certificatesv1.Failed || s.Error != "spec.hosts: wrong" || s.ObservedGeneration != 2 {
				t.Errorf("status %+v", s)
			}
			if (a.state.Wanted != nil) != (before != nil) {
				t.Errorf("what is acted on: %+v", a.state.Wanted)
			}
		})
	}
}

// What happens before it is known which object it is about is told once it is, the last of it.
func TestEventsWaitForTheObjectThatTheyAreAbout(t *testing.T) {
	a, specifications, reporter := newAgent(t)
	for i := range untoldLimit + 2 {
		a.tell(false, fmt.Sprint("Reason", i), "")
	}
	if len(reporter.events) > 0 {
		t.Fatalf("told %q", reporter.events)
	}
	specifications.certificate = named("mine", 1)
	a.observe(time.Now())
	a.observe(time.Now())
	if n := len(reporter.events); n != untoldLimit || reporter.events[0] != "mine Reason2 false" {
		t.Errorf("told %d: %q", n, reporter.events)
	}
}

// That the API server's first answer is awaited is no news, until it has taken long.
func TestTheFirstAnswerIsAwaitedInSilence(t *testing.T) {
	a, specifications, _ := newAgent(t)
	now := time.Now()
	specifications.err = &SpecificationError{Missing: true, Listing: true, Err: errors.New("waiting for the list")}
	a.observe(now)
	if len(a.untold) > 0 {
		t.Errorf("said %v", a.untold)
	}
	if err := a.Ready(now); err == nil || err.Error() != "istiod has no CA certificate: waiting for the list" {
		t.Errorf("who asks is told %v", err)
	}
	a.observe(now.Add(look))
	a.observe(now.Add(2 * look))
	if len(a.untold) != 1 || a.untold[0].reason != reasonNoSpec {
		t.Errorf("said %v", a.untold)
	}
}

// Whoever changes the specification and asks for a renewal at once may be overtaken by the own request: what was meant
// by it follows then, without waiting for a turn. A request that was there when the agent started means nothing new.
func TestAChangeThatARenewalHasOvertakenFollowsAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string // the annotation
		pause         time.Duration
		want          Action
	}{
		"asked for just before":            {"", "now", time.Second, Issue},
		"asked for again just before":      {"then", "now", time.Second, Issue},
		"asked for long before":            {"", "now", specificationSpread, Wait},
		"asked for before the agent began": {"now", "now", time.Second, Wait},
		"the request just taken away":      {"then", "", time.Second, Wait},
		"not asked for":                    {"", "", time.Second, Wait},
	} {
		t.Run(name, func(t *testing.T) {
			a, specifications, _ := newAgent(t)
			now := time.Now()
			look := func(renew string, ttlDays uint32) {
				certificate := named("mine", 1)
				certificate.Annotations = map[string]string{certificatesv1.RenewAnnotation: renew}
				certificate.Spec.CertOptions.TTLDays = &ttlDays
				specifications.certificate = certificate
				a.observe(now)
			}
			look(test.before, 100)
			if err := a.put(newSet(t), note{Digest: a.state.Wanted.Digest, Renew: test.before}); err != nil {
				t.Fatal(err)
			}
			look(test.after, 100)
			a.hold(a.set, note{Digest: a.state.Wanted.Digest, Renew: test.after}, now)
			a.state.Held.Confirmed = true
			now = now.Add(test.pause)
			look(test.after, 50)
			if step := Next(a.state, now); step.Action != test.want || step.Action == Issue && step.Reason != SpecificationChanged {
				t.Errorf("the next step is %+v", step)
			}
		})
	}
}

// An istiod that goes on under another CA gets the same files once more; one that does not answer does not.
func TestTheSameFilesArePublishedAgain(t *testing.T) {
	dir := t.TempDir()
	a, specifications, reporter := newAgentIn(t, dir)
	specifications.certificate = named("mine", 1)
	a.observe(time.Now())
	set := newSet(t)
	if err := a.publish(set, note{}); err != nil {
		t.Fatal(err)
	}
	where := func() string {
		t.Helper()
		path, err := filepath.EvalSymlinks(filepath.Join(dir, "ca-cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := where()

	other := newAuthority(t, "Istio", 7, nil)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{other.Raw}, PrivateKey: other.key}}})
	if err != nil {
		t.Fatal(err)
	}
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
	a.IstiodAddress = listener.Addr().String()
	a.confirm(context.Background())
	since := a.state.Held.OtherSince
	if since.IsZero() {
		t.Fatal("it was not noticed that istiod has another CA")
	}
	a.confirm(context.Background())
	if !a.state.Held.OtherSince.Equal(since) {
		t.Error("the second answer counts as the first")
	}
	if step := Next(a.state, since.Add(confirmationLimit)); step.Action != Republish {
		t.Fatalf("the next step is %+v", step)
	}
	a.republish()
	if where() == first || !a.Directory.Intact(a.set) {
		t.Error("the files were not published again")
	}
	if !slices.Contains(reporter.events, "mine Republished false") {
		t.Errorf("told %q", reporter.events)
	}
	if step := Next(a.state, time.Now().Add(confirmationLimit)); step.Action == Republish {
		t.Error("the second time comes as soon as the first")
	}

	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	a.confirm(context.Background())
	if !a.state.Held.OtherSince.IsZero() {
		t.Error("an istiod that does not answer counts as one with another CA")
	}
}

// newSet is what Vault could have answered, under a root of its own.
func newSet(t *testing.T) *cacerts.Set {
	t.Helper()
	set, _ := newSetAndKey(t)
	return set
}

func newSetAndKey(t *testing.T) (*cacerts.Set, *ecdsa.PrivateKey) {
	t.Helper()
	key := newP256(t)
	return newSetUnder(t, key, newP256(t)), key
}

// newReissued is a set with its root, and that root reissued with the same key.
func newReissued(t *testing.T) (set *cacerts.Set, old, reissued *x509.Certificate) {
	t.Helper()
	rootKey := newP256(t)
	set = newSetUnder(t, newP256(t), rootKey)
	template := *set.Root()
	template.SerialNumber = big.NewInt(3)
	return set, set.Root(), certify(t, &template, &template, rootKey, rootKey)
}

func newSetUnder(t *testing.T, key, rootKey *ecdsa.PrivateKey) *cacerts.Set {
	t.Helper()
	uri, err := url.Parse("spiffe://cluster.local/ns/istio-system/sa/istiod")
	if err != nil {
		t.Fatal(err)
	}
	template := func(serial int64, uris ...*url.URL) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{Organization: []string{"Istio"}, CommonName: "Istio"}, URIs: uris,
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(100 * day),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	rootTemplate := template(1)
	rootTemplate.Subject = pkix.Name{Organization: []string{"root"}}
	root := certify(t, rootTemplate, rootTemplate, rootKey, rootKey)
	intermediate := template(2, uri)
	intermediate.MaxPathLenZero = true
	certificate := certify(t, intermediate, root, key, rootKey)
	set, err := cacerts.Verify(cacerts.Issued{
		Key: encodeKey(t, key), Certificate: encode(certificate), Chain: [][]byte{encode(root)},
	}, cacerts.Wanted{Hosts: []string{uri.String()}, Organization: "Istio", Key: cacerts.Key{Type: "ec", Bits: 256}, TTL: 100 * day, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func encode(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

func encodeKey(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
