// SPDX-License-Identifier: Apache-2.0

package agent

import (
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

	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/agent/machine"
	"github.com/istiod-agent/istiod-agent/agent/metrics"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

const day = 24 * time.Hour

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
		Metrics: metrics.New(), Log: logr.Discard(), WorkloadTTL: day,
		Vault: vault.Options{Namespace: me.Namespace, ServiceAccount: me.ServiceAccount},
	}
	if err := a.start(time.Now(), machine.Config{KeepToken: true}); err != nil {
		t.Fatal(err)
	}
	return a, specifications, reporter
}

// act performs an action and feeds its result back.
func act(t *testing.T, a *Agent, action machine.Action) {
	t.Helper()
	event, err := a.act(t.Context(), machine.Step{Action: action})
	a.conclude(event, err)
}

// publish publishes a set as if it had just been issued.
func publish(a *Agent, set *cacerts.Set, n note) error {
	event, err := a.publish(set, n, machine.Initial)
	a.conclude(event, err)
	return err
}

// publishAs publishes a set as the specification asks for.
func publishAs(t *testing.T, a *Agent, set *cacerts.Set) {
	t.Helper()
	if err := publish(a, set, note{Digest: digest(a.desired)}); err != nil {
		t.Fatal(err)
	}
}

// put is what an earlier run published, whatever its roots.
func put(t *testing.T, a *Agent, set *cacerts.Set, n note) {
	t.Helper()
	if err := a.write(set, n); err != nil {
		t.Fatal(err)
	}
	a.apply(machine.SetFound{Set: describe(set, n)}, time.Now())
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
			if specification, found := a.state.Specified(); found != (before != nil) {
				t.Errorf("what is acted on: %+v", specification)
			}
		})
	}
}

// That the API server's first answer is awaited is no news, until it has taken long.
func TestTheFirstAnswerIsAwaitedInSilence(t *testing.T) {
	a, specifications, reporter := newAgent(t)
	a.notices.SetAbout(named("mine", 1))
	now := time.Now()
	specifications.err = &SpecificationError{Missing: true, Listing: true, Err: errors.New("waiting for the list")}
	a.observe(now)
	if len(reporter.events) > 0 {
		t.Errorf("said %v", reporter.events)
	}
	if err := a.Ready(now); err == nil || err.Error() != "istiod has no CA certificate: waiting for the list" {
		t.Errorf("who asks is told %v", err)
	}
	a.observe(now.Add(machine.PollInterval))
	a.observe(now.Add(2 * machine.PollInterval))
	if !slices.Equal(reporter.events, []string{"mine NoSpecification true"}) {
		t.Errorf("said %v", reporter.events)
	}
}

// Whoever changes the specification and asks for a renewal at once may be overtaken by the own request: what was meant
// by it follows then, without waiting for a turn. A request that was there when the agent started means nothing new.
func TestAChangeThatARenewalHasOvertakenFollowsAtOnce(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string // the annotation
		pause         time.Duration
		want          machine.Action
	}{
		"asked for just before":            {"", "now", time.Second, machine.Issue},
		"asked for again just before":      {"then", "now", time.Second, machine.Issue},
		"asked for long before":            {"", "now", 10 * time.Minute, machine.Wait},
		"asked for before the agent began": {"now", "now", time.Second, machine.Wait},
		"the request just taken away":      {"then", "", time.Second, machine.Wait},
		"not asked for":                    {"", "", time.Second, machine.Wait},
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
			put(t, a, newSet(t), note{Digest: digest(a.desired), Renew: test.before})
			look(test.after, 100)
			a.apply(machine.SetPublished{Set: describe(a.set, note{Digest: digest(a.desired), Renew: test.after})}, now)
			a.apply(machine.Confirmed{}, now)
			now = now.Add(test.pause)
			look(test.after, 50)
			if step := machine.Next(a.state, now); step.Action != test.want || step.Action == machine.Issue && step.Reason != machine.SpecificationChanged {
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
	publishAs(t, a, newSet(t))
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
	act(t, a, machine.Confirm)
	since := time.Now()
	act(t, a, machine.Confirm)
	if step := machine.Next(a.state, since.Add(machine.ConfirmationLimit)); step.Action != machine.Republish {
		t.Fatalf("it was not noticed that istiod has another CA, or the second answer counts as the first: %+v", step)
	}
	act(t, a, machine.Republish)
	if where() == first || !a.Directory.Intact(a.set) {
		t.Error("the files were not published again")
	}
	if !slices.Contains(reporter.events, "mine Republished false") {
		t.Errorf("told %q", reporter.events)
	}
	if step := machine.Next(a.state, time.Now().Add(machine.ConfirmationLimit)); step.Action == machine.Republish {
		t.Error("the second time comes as soon as the first")
	}

	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	act(t, a, machine.Confirm)
	if step := machine.Next(a.state, time.Now().Add(time.Hour)); step.Action != machine.Confirm {
		t.Errorf("an istiod that does not answer counts as one with another CA: %+v", step)
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
	}, cacerts.Request{Hosts: []string{uri.String()}, Organization: "Istio", Key: cacerts.Key{Type: "ec", Bits: 256}, TTL: 100 * day, Now: time.Now()})
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
