// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// Two meshes federate by their bundle endpoints, as docs/trust-bundles.md describes.
func TestFederation(t *testing.T) {
	web, wrong := testca.Root("web CA"), testca.Root("another CA")
	first, second := newMesh(t, one, "one", "webhook"), newMesh(t, two, "two", "policy")

	t.Log("Without a certificate and without istiod")
	if _, err := fetch(t, first, 0, web); err == nil {
		t.Fatal("it serves without a certificate")
	}
	first.certify(t, web, "localhost")
	second.certify(t, wrong, "localhost")
	cluster.Eventually(t, "there is no bundle before istiod publishes its root", func() error {
		response, err := get(t, "GET", first.url(0), web, "")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusServiceUnavailable {
			return fmt.Errorf("it returns %s", response.Status)
		}
		return nil
	})

	checked(t, second, "fail     bundle endpoint  — istiod has not published its roots in ConfigMap istio-system/istio-ca-root-cert, so no bundle is served")
	first.start(t, second, web)
	second.start(t, first, web)
	served(t, first, web, first.Root.Certificate)
	served(t, second, wrong, second.Root.Certificate)
	checked(t, second, "ok       bundle endpoint  — the roots can be served: 1 from istio-system/istio-ca-root-cert")
	hostile(t, first, web)

	t.Log("The endpoint of the second mesh has the certificate of a CA that nobody trusts")
	if _, err := fetch(t, second, 0, web); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("go-spiffe fetches it: %v", err)
	}
	cluster.Within(t, time.Minute, "istiod refuses it", func() error {
		if !strings.Contains(first.Istiod.Process().Output(), "unable to fetch trust Anchors from endpoint "+second.url(0)) {
			return errors.New("its log does not say so")
		}
		return nil
	})
	first.distributes(t, "the first istiod distributes its own root alone", first.Root.Certificate)
	second.distributes(t, "the second istiod distributes both roots", first.Root.Certificate, second.Root.Certificate)
	if err := handshake(first.workload(t, "a"), second.workload(t, "b")); err == nil {
		t.Error("workloads of the first mesh trust those of the second one")
	}

	t.Log("It gets a trusted one, without a restart")
	second.certify(t, web, "localhost")
	served(t, second, web, second.Root.Certificate)
	must(t, first.Istiod.Restart(t.Context())) // else the next poll is in half an hour
	first.distributes(t, "the first istiod distributes both roots", first.Root.Certificate, second.Root.Certificate)
	a, b := first.workload(t, "a"), second.workload(t, "b")
	for _, pair := range [][2]*workload{{a, b}, {b, a}, {a, a}} {
		if err := handshake(pair[0], pair[1]); err != nil {
			t.Error(err)
		}
	}
	// istiod publishes only its own root, and so does the endpoint: trust does not pass on.
	served(t, first, web, first.Root.Certificate)
	forged(t, first, second, a)
	rotate(t, first, second, web, a)
}

// served expects that both replicas serve these roots, and what their metrics report of it.
func served(t *testing.T, m *mesh, web *testca.Certificate, roots ...[]byte) *spiffebundle.Bundle {
	t.Helper()
	want, err := pemcerts.Parse(joined(roots))
	must(t, err)
	var bundles [2]*spiffebundle.Bundle
	cluster.Within(t, time.Minute, "the endpoint serves the roots of "+m.domain.Name(), func() error {
		for i := range bundles {
			bundle, err := fetch(t, m, i, web)
			if err != nil {
				return err
			}
			if len(bundle.X509Authorities()) != len(want) || !slices.ContainsFunc(want, bundle.HasX509Authority) {
				return fmt.Errorf("replica %d serves %d roots", i, len(bundle.X509Authorities()))
			}
			for _, root := range want {
				if !bundle.HasX509Authority(root) {
					return fmt.Errorf("replica %d does not serve %s", i, root.Subject)
				}
			}
			bundles[i] = bundle
		}
		if !bundles[0].Equal(bundles[1]) {
			return errors.New("the replicas serve different bundles")
		}
		return nil
	})
	sequence, ok := bundles[0].SequenceNumber()
	if hint, hinted := bundles[0].RefreshHint(); !ok || sequence == 0 || !hinted || hint != 5*time.Minute {
		t.Errorf("sequence %d, refresh hint %s", sequence, hint)
	}
	for metric, value := range map[string]float64{
		"istiod_agent_webhook_bundle_roots": float64(len(want)), "istiod_agent_webhook_bundle_current": 1, "istiod_agent_webhook_bundle_sequence": float64(sequence),
	} {
		if got, found, err := m.Webhook.Replicas[0].Sum(t.Context(), metric); err != nil || !found || got != value {
			t.Errorf("%s is %v (%t, %v), want %v", metric, got, found, err, value)
		}
	}
	return bundles[0]
}

// checked expects a line of `kubectl istiod-agent check`, whose exit code may have other causes.
func checked(t *testing.T, m *mesh, line string) {
	t.Helper()
	kubeconfig, err := m.Plane.Kubeconfig("admin", "system:masters")
	must(t, err)
	if result := plugin.Run(t.Context(), "", "check", "--kubeconfig", kubeconfig); !strings.Contains(result.Stdout, line) {
		t.Errorf("check does not report %q: %s", line, result)
	}
}

// hostile requests get nothing else than the bundle, and leave the port as it is.
func hostile(t *testing.T, m *mesh, web *testca.Certificate) {
	t.Helper()
	for name, test := range map[string]struct {
		method, path, body string
		status             int
	}{
		"another path":   {"GET", "debug/pprof", "", 404},
		"an admission":   {"POST", "deployments", "{}", 413},
		"a path upwards": {"GET", "..%2f..%2fetc/passwd", "", 404},
		"a body":         {"GET", "", strings.Repeat("x", 1<<20), 413},
		"POST":           {"POST", "", "", 405},
	} {
		response, err := get(t, test.method, m.url(0)+test.path, web, test.body)
		if err != nil {
			if test.body == "" { // a connection may be closed while its body is sent
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if response.StatusCode != test.status {
			t.Errorf("%s: %s", name, response.Status)
		}
	}
	// Connections that do not speak, from the address of a client that does.
	address := strings.TrimSuffix(strings.TrimPrefix(m.url(0), "https://"), "/")
	for range 100 {
		silent, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		must(t, err)
		t.Cleanup(func() { _ = silent.Close() })
	}
	cluster.Eventually(t, "the endpoint answers beside silent connections", func() error {
		_, err := fetch(t, m, 0, web)
		return err
	})
}

// forged shows a difference between the clients of a bundle: istiod distributes one list of roots, so that the CA of a
// federated mesh can issue any identity of this one; SPIFFE binds each bundle to its trust domain.
func forged(t *testing.T, first, second *mesh, honest *workload) {
	t.Helper()
	key, err := tls.X509KeyPair(second.Root.Certificate, second.Root.Key)
	must(t, err)
	ca := &testca.Certificate{Certificate: key.Leaf, Key: key.PrivateKey.(crypto.Signer)}
	id := spiffeid.RequireFromPath(first.domain, "/ns/default/sa/a")
	template := x509.Certificate{
		URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, NotAfter: time.Now().Add(time.Hour),
	}
	issued := ca.Sign(template, nil)
	if err := handshake(honest, &workload{certificate: issued.TLS(), roots: honest.roots}); err != nil {
		t.Errorf("the list of roots that istiod distributes is bound to trust domains now: correct docs/trust-bundles.md and docs/security.md: %v", err)
	}

	bundles := spiffebundle.NewSet()
	for _, m := range []*mesh{first, second} {
		roots, err := pemcerts.Parse(m.published(t))
		must(t, err)
		bundles.Add(spiffebundle.FromX509Authorities(m.domain, roots))
	}
	if _, _, err := x509svid.Verify([]*x509.Certificate{issued.Certificate}, bundles); err == nil {
		t.Error("go-spiffe accepts an identity from the CA of another trust domain")
	}
}

// watcher is a client as SPIRE's: it asks again after a short time, and keeps what it gets.
type watcher struct {
	latest atomic.Pointer[spiffebundle.Bundle]
}

func (*watcher) NextRefresh(time.Duration) time.Duration { return 200 * time.Millisecond }
func (w *watcher) OnUpdate(bundle *spiffebundle.Bundle)  { w.latest.Store(bundle) }
func (*watcher) OnError(error)                           {}

// rotate changes the root of the second mesh in stages. Its peers follow without a change of theirs, and no handshake fails
// where they have polled between the stages.
func rotate(t *testing.T, first, second *mesh, web *testca.Certificate, a *workload) {
	t.Helper()
	t.Log("The second mesh changes its root")
	before := served(t, second, web, second.Root.Certificate)
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	client := &watcher{}
	go func() {
		_ = federation.WatchBundle(watching, second.domain, second.url(1), client, federation.WithWebPKIRoots(pool(t, string(web.PEM()))))
	}()
	root, err := vaultserver.FastRoot()
	must(t, err)
	second.Mount(t, "pki2", root)
	second.stage(t, "trust-both", root, false)
	both := served(t, second, web, second.Root.Certificate, root.Certificate)
	later(t, before, both)
	cluster.Eventually(t, "go-spiffe's watch has got both roots", func() error {
		if latest := client.latest.Load(); latest == nil || !latest.Equal(both) {
			return errors.New("not yet")
		}
		return nil
	})
	must(t, first.Istiod.Restart(t.Context()))
	first.distributes(t, "the first istiod distributes all three roots", first.Root.Certificate, second.Root.Certificate, root.Certificate)
	a = first.workload(t, "a")

	second.stage(t, "sign-with-new", root, true)
	cluster.Within(t, 2*time.Minute, "workloads of the second mesh have certificates under the new root, and handshake with the first one", func() error {
		renewed := second.workload(t, "b")
		if !under(t, renewed, root.Certificate) {
			return errors.New("still under the old one")
		}
		return handshake(a, renewed)
	})
	second.stage(t, "drop-old", root, true)
	last := served(t, second, web, root.Certificate)
	later(t, both, last)
	must(t, first.Istiod.Restart(t.Context()))
	first.distributes(t, "the first istiod has dropped the old root", first.Root.Certificate, root.Certificate)
	if err := handshake(first.workload(t, "a"), second.workload(t, "b")); err != nil {
		t.Error(err)
	}
	byTrustDomain(t, first, second, web, root)
}

// byTrustDomain handshakes as workloads of SPIRE do, each of which has a bundle for each trust domain, from the endpoints.
func byTrustDomain(t *testing.T, first, second *mesh, web *testca.Certificate, root *vaultserver.Root) {
	t.Helper()
	bundles := spiffebundle.NewSet(served(t, first, web, first.Root.Certificate), served(t, second, web, root.Certificate))
	svid := func(m *mesh, name string) *x509svid.SVID {
		w := m.workload(t, name)
		parsed := &x509svid.SVID{ID: spiffeid.RequireFromPath(m.domain, "/ns/default/sa/"+name), PrivateKey: w.certificate.PrivateKey.(crypto.Signer)}
		for _, der := range w.certificate.Certificate {
			certificate, err := x509.ParseCertificate(der)
			must(t, err)
			parsed.Certificates = append(parsed.Certificates, certificate)
		}
		return parsed
	}
	client := tlsconfig.MTLSClientConfig(svid(first, "a"), bundles, tlsconfig.AuthorizeMemberOf(second.domain))
	server := tlsconfig.MTLSServerConfig(svid(second, "b"), bundles, tlsconfig.AuthorizeMemberOf(first.domain))
	if err := connect(client, server); err != nil {
		t.Error(err)
	}
}

func later(t *testing.T, before, after *spiffebundle.Bundle) {
	t.Helper()
	old, _ := before.SequenceNumber()
	if sequence, _ := after.SequenceNumber(); sequence <= old {
		t.Errorf("the sequence is %d after %d", sequence, old)
	}
}

// under reports whether a workload's certificate leads to a root.
func under(t *testing.T, w *workload, root []byte) bool {
	t.Helper()
	intermediates := x509.NewCertPool()
	for _, der := range w.certificate.Certificate[1:] {
		certificate, err := x509.ParseCertificate(der)
		must(t, err)
		intermediates.AddCert(certificate)
	}
	_, err := w.certificate.Leaf.Verify(x509.VerifyOptions{Roots: pool(t, string(root)), Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// handshake is mutual TLS between two workloads, each with the roots that it has.
func handshake(client, server *workload) error {
	return connect(client.config(), server.config())
}

func (w *workload) config() *tls.Config {
	roots := x509.NewCertPool()
	for _, root := range w.roots {
		roots.AppendCertsFromPEM([]byte(root))
	}
	return &tls.Config{
		Certificates: []tls.Certificate{w.certificate}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // a SPIFFE ID is no host name: the chain is verified below
		VerifyConnection: func(state tls.ConnectionState) error {
			intermediates := x509.NewCertPool()
			for _, each := range state.PeerCertificates[1:] {
				intermediates.AddCert(each)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
			})
			return err
		},
	}
}

// connect does a handshake over a pipe.
func connect(client, server *tls.Config) error {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	deadline := time.Now().Add(10 * time.Second)
	_ = here.SetDeadline(deadline)
	_ = there.SetDeadline(deadline)
	result := make(chan error, 1)
	go func() {
		err := tls.Server(there, server).Handshake()
		if err != nil {
			_ = there.Close()
		}
		result <- err
	}()
	err := tls.Client(here, client).Handshake()
	if err != nil {
		_ = here.Close()
	}
	return errors.Join(err, <-result)
}
