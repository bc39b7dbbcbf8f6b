// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// largeExtension makes a certificate of more than ten kilobytes.
func largeExtension() []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 10<<10)}}
}

// fixture is an endpoint whose API server has a ConfigMap, and its log.
type fixture struct {
	*Endpoint
	cluster client.Client
	down    bool
	log     strings.Builder
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{}
	f.cluster = interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, object client.Object, options ...client.GetOption) error {
			if f.down {
				return errors.New("connection refused")
			}
			return c.Get(ctx, key, object, options...)
		},
	})
	f.Endpoint = NewEndpoint(f.cluster, []string{"istio-system"}, funcr.New(func(_, line string) { f.log.WriteString(line + "\n") }, funcr.Options{}))
	return f
}

// publish writes the ConfigMap as istiod does, and lets the endpoint read it.
func (f *fixture) publish(t *testing.T, roots ...*testca.Certificate) {
	t.Helper()
	f.publishText(t, in("", "", roots...).roots)
}

func (f *fixture) publishText(t *testing.T, text string) {
	t.Helper()
	stored := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "istio-system", Name: "istio-ca-root-cert"}}
	if err := client.IgnoreNotFound(f.cluster.Delete(t.Context(), stored)); err != nil {
		t.Fatal(err)
	}
	stored.ResourceVersion, stored.Data = "", map[string]string{"root-cert.pem": text}
	if err := f.cluster.Create(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	f.refresh(t.Context(), time.Now())
}

func (f *fixture) get(t *testing.T, method, target, body string, header map[string]string) *http.Response {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	request := httptest.NewRequestWithContext(t.Context(), method, target, content)
	for name, value := range header {
		request.Header.Set(name, value)
	}
	recorder := httptest.NewRecorder()
	f.ServeHTTP(recorder, request)
	return recorder.Result()
}

func bodyOf(t *testing.T, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestServeHTTP(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish(t, testca.Root("one"))
	served := f.served.Load()
	for name, test := range map[string]struct {
		method, target, body string
		header               map[string]string
		status               int
		bundle               bool
	}{
		"GET":                      {"GET", "/", "", nil, 200, true},
		"HEAD":                     {"HEAD", "/", "", nil, 200, false},
		"a query":                  {"GET", "/?trust_domain=other", "", nil, 200, true},
		"another host":             {"GET", "https://evil.example/", "", map[string]string{"X-Forwarded-Host": "evil.example"}, 200, true},
		"its ETag":                 {"GET", "/", "", map[string]string{"If-None-Match": `"x", W/` + served.etag}, 304, false},
		"another ETag":             {"GET", "/", "", map[string]string{"If-None-Match": `"` + strings.Repeat("x", 7000)}, 200, true},
		"a range is ignored":       {"GET", "/", "", map[string]string{"Range": "bytes=0-1"}, 200, true},
		"another path":             {"GET", "/bundle", "", nil, 404, false},
		"a path out of it":         {"GET", "/../../etc/passwd", "", nil, 404, false},
		"a path with two slashes":  {"GET", "//", "", nil, 404, false},
		"the webhook's path":       {"POST", "/deployments", "", nil, 404, false},
		"POST":                     {"POST", "/", "", nil, 405, false},
		"PUT":                      {"PUT", "/", "", nil, 405, false},
		"OPTIONS":                  {"OPTIONS", "/", "", nil, 405, false},
		"a method of its own":      {"EVIL", "/", "", nil, 405, false},
		"a body":                   {"GET", "/", "x", nil, 413, false},
		"a body of another method": {"POST", "/", strings.Repeat("x", 1<<20), nil, 413, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := f.get(t, test.method, test.target, test.body, test.header)
			body := bodyOf(t, response)
			if response.StatusCode != test.status {
				t.Fatalf("status %d: %s", response.StatusCode, body)
			}
			if (body == string(served.json)) != test.bundle {
				t.Errorf("body: %s", body)
			}
			if strings.Contains(body, "evil") || strings.Contains(body, "passwd") {
				t.Errorf("the request is repeated: %s", body)
			}
			if response.Header.Get("Connection") != "close" {
				t.Error("the connection stays open")
			}
			switch test.status {
			case 200:
				if response.Header.Get("Content-Type") != "application/json" || response.Header.Get("ETag") != served.etag || response.Header.Get("Cache-Control") != "no-cache" {
					t.Errorf("headers %v", response.Header)
				}
			case 405:
				if response.Header.Get("Allow") != "GET, HEAD" {
					t.Errorf("headers %v", response.Header)
				}
			}
		})
	}
}

// A body of unknown length is not read either.
func TestServeHTTPChunked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish(t, testca.Root("one"))
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", io.MultiReader(strings.NewReader("x")))
	recorder := httptest.NewRecorder()
	f.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", recorder.Code)
	}
}

// The endpoint follows what istiod publishes. While that is missing or not valid, it continues with the last valid bundle.
func TestRefresh(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one, two := testca.Root("one"), testca.Root("two")
	serves := func(step string, roots int, current float64) string {
		t.Helper()
		response := f.get(t, http.MethodGet, "/", "", nil)
		want := http.StatusOK
		if roots == 0 {
			want = http.StatusServiceUnavailable
		}
		body := bodyOf(t, response)
		if response.StatusCode != want || strings.Count(body, `"x509-svid"`) != roots {
			t.Errorf("%s: status %d: %s", step, response.StatusCode, body)
		}
		found := gather(t, f.Endpoint, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") })
		if found["roots"] != float64(roots) || found["current"] != current || found["certificate_not_after_seconds"] != 0 {
			t.Errorf("%s: metrics %v", step, found)
		}
		return body
	}

	f.refresh(t.Context(), time.Now())
	serves("there is no ConfigMap", 0, 0)
	f.publish(t, one)
	first := serves("istiod has started", 1, 1)
	f.publish(t, one, two)
	if second := serves("the root changes", 2, 1); second == first {
		t.Error("the bundle has not changed")
	}
	f.publishText(t, "not PEM")
	kept := serves("it is broken", 2, 0)
	f.down = true
	f.refresh(t.Context(), time.Now())
	f.refresh(t.Context(), time.Now())
	if again := serves("the API server is down", 2, 0); again != kept {
		t.Error("the bundle has changed")
	}
	f.down = false
	f.publish(t, two)
	serves("the old root is dropped", 1, 1)
	f.refresh(t.Context(), time.Now().AddDate(20, 0, 0))
	serves("the root has ended", 1, 1)

	log := f.log.String()
	for _, line := range []string{"has no roots to serve", "continues to serve the last valid ones", "not a certificate", "roots have ended", "Serving a new bundle"} {
		if !strings.Contains(log, line) {
			t.Errorf("the log does not contain %q:\n%s", line, log)
		}
	}
	if count := strings.Count(log, "connection refused"); count != 1 {
		t.Errorf("the same problem is logged %d times", count)
	}
	if strings.Contains(log, "BEGIN") {
		t.Errorf("the log contains what was read:\n%s", log)
	}
}

// gather returns the metrics by their names without their common beginning.
func gather(t *testing.T, endpoint *Endpoint, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(Metrics(endpoint, certificate))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		found[strings.TrimPrefix(family.GetName(), "istiod_agent_webhook_bundle_")] = family.GetMetric()[0].GetGauge().GetValue()
	}
	return found
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.publish(t, testca.Root("one"))
	served := testca.Root("endpoint").TLS()
	found := gather(t, f.Endpoint, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &served, nil })
	want := map[string]float64{
		"roots": 1, "current": 1, "sequence": float64(f.served.Load().sequence),
		"certificate_not_after_seconds": float64(served.Leaf.NotAfter.Unix()),
	}
	if !maps.Equal(found, want) {
		t.Errorf("%v, want %v", found, want)
	}
}

// Start ends with its context.
func TestStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Start(ctx); err != nil {
		t.Error(err)
	}
	if f.NeedLeaderElection() {
		t.Error("a replica waits to be elected")
	}
}
