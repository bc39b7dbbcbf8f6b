// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	certauthority "github.com/cert-manager/cert-manager/pkg/server/tls/authority"
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache/informertest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

var caSecret = types.NamespacedName{Namespace: "istiod-agent-system", Name: "istiod-agent-webhook-ca"}

// authorityTest is an authority, and all that it works with.
type authorityTest struct {
	*authority
	client.Client
	now *testingclock.FakePassiveClock
}

// newAuthorityTest has a Secret with this data, none when it is nil.
func newAuthorityTest(t *testing.T, data map[string][]byte, calls interceptor.Funcs) *authorityTest {
	t.Helper()
	builder := fake.NewClientBuilder().WithInterceptorFuncs(calls)
	if data != nil {
		builder.WithObjects(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: caSecret.Namespace, Name: caSecret.Name}, Data: data})
	}
	s := &authorityTest{Client: builder.Build(), now: testingclock.NewFakePassiveClock(start)}
	s.authority = &authority{client: s.Client, clock: s.now, secret: caSecret, caDuration: 90 * time.Hour, leafDuration: 10 * time.Hour}
	return s
}

func (s *authorityTest) wantEnsured(t *testing.T) {
	t.Helper()
	for range 2 { // the second look is that which the watch brings about
		if err := s.ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// stored is the CA in the Secret, which must be a good one.
func (s *authorityTest) stored(t *testing.T) (*tls.Certificate, corev1.Secret) {
	t.Helper()
	var secret corev1.Secret
	if err := s.Get(t.Context(), caSecret, &secret); err != nil {
		t.Fatal(err)
	}
	ca, problem := readCA(secret.Data)
	if problem != "" {
		t.Fatal(problem)
	}
	return ca, secret
}

// wantLeaf wants a leaf signed that clients who trust this CA take.
func (s *authorityTest) wantLeaf(t *testing.T, ca *x509.Certificate, until time.Time) {
	t.Helper()
	leaf, err := s.Sign(&x509.Certificate{PublicKey: newKey(t).Public(), DNSNames: []string{"a.b.svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "a.b.svc", Roots: roots, CurrentTime: s.now.Now()}); err != nil {
		t.Error(err)
	}
	if !leaf.NotBefore.Equal(s.now.Now()) || !leaf.NotAfter.Equal(until) {
		t.Errorf("valid from %s until %s, want %s until %s", leaf.NotBefore, leaf.NotAfter, s.now.Now(), until)
	}
}

func secretData(t *testing.T, ca testCA) map[string][]byte {
	t.Helper()
	return map[string][]byte{"ca.crt": pemOf(ca), "tls.crt": pemOf(ca), "tls.key": keyPEM(t, &tls.Certificate{PrivateKey: ca.key})}
}

func TestAuthorityCreatesCA(t *testing.T) {
	t.Parallel()
	good := newCA(t, "good", start.Add(-time.Hour), start.Add(year))
	with := func(key string, value []byte) map[string][]byte {
		data := secretData(t, good)
		data[key] = value
		return data
	}
	leaf := good.leaf(t, start.Add(year))
	leafData := map[string][]byte{"tls.key": keyPEM(t, leaf), "tls.crt": pemOf(testCA{Certificate: leaf.Leaf}), "ca.crt": pemOf(testCA{Certificate: leaf.Leaf})}
	for name, data := range map[string]map[string][]byte{
		"no Secret":                nil,
		"an empty one":             {},
		"no key":                   with("tls.key", nil),
		"the key of another":       with("tls.key", keyPEM(t, leaf)),
		"half a certificate":       with("tls.crt", pemOf(good)[:99]),
		"a ca.crt of another CA":   with("ca.crt", pemOf(newCA(t, "other", start, start.Add(year)))),
		"the certificate of no CA": leafData,
		"one that has expired":     secretData(t, newCA(t, "expired", start.Add(-year), start.Add(-time.Hour))),
		"one that is due":          secretData(t, newCA(t, "due", start.Add(-2*time.Hour-time.Second), start.Add(time.Hour))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if data != nil {
				data["extra"] = []byte("kept")
			}
			s := newAuthorityTest(t, data, interceptor.Funcs{})
			rotated := make(chan struct{}, 1)
			s.WatchRotation(rotated)
			if _, err := s.Sign(&x509.Certificate{}); err == nil {
				t.Error("signs without a CA")
			}
			s.wantEnsured(t)
			ca, secret := s.stored(t)
			if until := start.Add(90 * time.Hour); !ca.Leaf.NotAfter.Equal(until) || ca.Leaf.Equal(good.Certificate) {
				t.Errorf("CA %s until %s, want a new one until %s", ca.Leaf.Subject, ca.Leaf.NotAfter, until)
			}
			if data != nil && string(secret.Data["extra"]) != "kept" {
				t.Error("what else stood in the Secret is gone")
			}
			s.wantLeaf(t, ca.Leaf, start.Add(10*time.Hour))
			if len(rotated) != 1 {
				t.Error("nobody was told")
			}
		})
	}
}

func TestAuthorityKeepsValidCA(t *testing.T) {
	t.Parallel()
	// The edge: a third of its life is left.
	ca := newCA(t, "due in an instant", start.Add(-2*time.Hour), start.Add(time.Hour))
	data := secretData(t, ca)
	s := newAuthorityTest(t, maps.Clone(data), interceptor.Funcs{})
	rotated := make(chan struct{}, 1)
	s.WatchRotation(rotated)
	s.wantEnsured(t)
	if _, secret := s.stored(t); !bytes.Equal(secret.Data["tls.crt"], data["tls.crt"]) {
		t.Error("it was replaced")
	}
	s.wantLeaf(t, ca.Certificate, ca.NotAfter) // no longer than its CA
	<-rotated
	s.wantEnsured(t)
	if len(rotated) != 0 {
		t.Error("told of a CA that has not changed")
	}
	s.StopWatchingRotation(rotated)
	s.now.SetTime(start.Add(time.Second))
	s.wantEnsured(t)
	if fresh, _ := s.stored(t); fresh.Leaf.Equal(ca.Certificate) || len(rotated) != 0 {
		t.Errorf("%s, and %d calls to who no longer listens", fresh.Leaf.Subject, len(rotated))
	}
}

// A CA that cannot be renewed is used for as long as it is valid.
func TestAuthorityUsesDueCA(t *testing.T) {
	t.Parallel()
	ca := newCA(t, "due", start.Add(-3*time.Hour), start.Add(time.Hour))
	refused := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, caSecret.Name, nil)
	s := newAuthorityTest(t, secretData(t, ca), interceptor.Funcs{
		Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error { return refused },
	})
	if err := s.ensure(t.Context()); !apierrors.IsForbidden(err) {
		t.Errorf("got %v", err)
	}
	s.wantLeaf(t, ca.Certificate, ca.NotAfter)
	s.now.SetTime(ca.NotAfter)
	if _, err := s.Sign(&x509.Certificate{PublicKey: newKey(t).Public()}); err == nil {
		t.Error("signs with a CA that has expired")
	}
}

// cert-manager's authority fails the previous case: a replica that starts while the due CA cannot be replaced has no
// certificate, although the one in the Secret is valid. When this test fails, it can replace the authority here.
func TestLibraryAuthorityRefusesDueCA(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ca := newCA(t, "due", now.Add(-3*time.Hour), now.Add(time.Hour))
	secret := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: caSecret.Namespace, Name: caSecret.Name}, Data: secretData(t, ca)}
	written := make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, caSecret.Name, nil).Status()
		status := http.StatusForbidden
		switch query := r.URL.Query(); {
		case r.Method != http.MethodGet:
			notify(written)
		case query.Get("watch") != "" && query.Get("sendInitialEvents") == "":
			<-r.Context().Done()
			return
		case query.Get("watch") == "":
			status, answer = http.StatusOK, corev1.SecretList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.Secret{secret}}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	library := &certauthority.DynamicAuthority{
		SecretNamespace: caSecret.Namespace, SecretName: caSecret.Name,
		RESTConfig: &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}},
	}
	ctx, stop := context.WithTimeout(logr.NewContext(t.Context(), logr.Discard()), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- library.Run(ctx) }()
	for range 2 { // by the watch, and by the first poll
		select {
		case <-written:
		case <-ctx.Done():
			t.Fatal("the library did not try to replace the CA")
		}
	}
	if _, err := library.Sign(&x509.Certificate{PublicKey: newKey(t).Public()}); !errors.Is(err, certauthority.ErrCertificateNotAvailable) {
		t.Errorf("the library signs with a due CA that it cannot replace (%v)", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What another replica has written meanwhile stays.
func TestAuthorityConflict(t *testing.T) {
	t.Parallel()
	theirs := newCA(t, "theirs", start, start.Add(year))
	for name, data := range map[string]map[string][]byte{"making one": nil, "renewing one": {"tls.crt": []byte("x")}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			quicker := func(ctx context.Context, c client.WithWatch) {
				secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: caSecret.Namespace, Name: caSecret.Name}}
				if err := client.IgnoreNotFound(c.Get(ctx, caSecret, secret)); err != nil {
					t.Error(err)
				}
				secret.Data = secretData(t, theirs)
				write := c.Create
				if secret.ResourceVersion != "" {
					write = func(ctx context.Context, object client.Object, _ ...client.CreateOption) error {
						return c.Update(ctx, object)
					}
				}
				if err := write(ctx, secret); err != nil {
					t.Error(err)
				}
			}
			s := newAuthorityTest(t, data, interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.CreateOption) error {
					quicker(ctx, c)
					return c.Create(ctx, object, options...)
				},
				Update: func(ctx context.Context, c client.WithWatch, object client.Object, options ...client.UpdateOption) error {
					quicker(ctx, c)
					return c.Update(ctx, object, options...)
				},
			})
			s.wantEnsured(t)
			if ca, _ := s.stored(t); !ca.Leaf.Equal(theirs.Certificate) {
				t.Errorf("the Secret holds %s", ca.Leaf.Subject)
			}
			s.wantLeaf(t, theirs.Certificate, start.Add(10*time.Hour))
		})
	}
}

func TestAuthorityRecreatesDeletedCA(t *testing.T) {
	t.Parallel()
	s := newAuthorityTest(t, nil, interceptor.Funcs{})
	informers := &informertest.FakeInformers{Scheme: scheme.Scheme}
	informer, err := informers.FakeInformerFor(t.Context(), &corev1.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	s.informers = informers
	rotated := make(chan struct{}, 1)
	s.WatchRotation(rotated)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var before *tls.Certificate
	for range 3 {
		var secret corev1.Secret
		for s.Get(ctx, caSecret, &secret) != nil { // it is made at the first look, or when the watch tells that it is gone
			if ctx.Err() != nil {
				t.Fatal("no CA")
			}
			runtime.Gosched()
		}
		informer.Add(&secret)
		select {
		case <-rotated:
		case <-ctx.Done():
			t.Fatal("the CA is not used")
		}
		ca, _ := s.stored(t)
		if before != nil && ca.Leaf.Equal(before.Leaf) {
			t.Error("it is the same")
		}
		before = ca
		s.wantLeaf(t, ca.Leaf, start.Add(10*time.Hour))
		if err := s.Delete(ctx, &secret); err != nil {
			t.Fatal(err)
		}
		informer.Delete(&secret)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// That no certificate can be issued asks for a person.
func TestAuthorityLogsFailure(t *testing.T) {
	t.Parallel()
	s := newAuthorityTest(t, nil, interceptor.Funcs{Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, caSecret.Name, nil)
	}})
	s.informers = &informertest.FakeInformers{Scheme: scheme.Scheme}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	var logged string
	log := funcr.New(func(_, line string) { logged = line; stop() }, funcr.Options{})
	if err := s.Run(logr.NewContext(ctx, log)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(logged, `"msg"="Failed to keep the CA of the serving certificate" "error"="writing Secret `+caSecret.String()) {
		t.Errorf("logged %q", logged)
	}
}
