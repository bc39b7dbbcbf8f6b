// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	evanphx "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// paths stands in for controller-runtime's server, which adds TLS and metrics.
type paths struct{ *http.ServeMux }

func (p paths) Register(path string, handler http.Handler) { p.Handle(path, handler) }

// handler is what is served, with a configuration given as YAML without its
// first two lines.
func handler(t testing.TB, config string, log logr.Logger) http.Handler {
	t.Helper()
	decoded, err := v1alpha1.Decode([]byte("apiVersion: " + v1alpha1.APIVersion + "\nkind: " + v1alpha1.Kind + "\n" + config))
	if err != nil {
		t.Fatal(err)
	}
	injector, err := patches.New(decoded)
	if err != nil {
		t.Fatal(err)
	}
	p := paths{http.NewServeMux()}
	webhook.Register(p, injector, v1alpha1.Default().VirtualMesh, nil, log)
	return p
}

// server is the webhook as an API server meets it, but for TLS.
type server struct{ *httptest.Server }

func serve(t *testing.T, config string, log logr.Logger) server {
	t.Helper()
	s := server{httptest.NewServer(handler(t, config, log))}
	t.Cleanup(s.Close)
	return s
}

// ask posts a review and wants one in return.
func (s server) ask(t *testing.T, path string, review *admissionv1.AdmissionReview) *admissionv1.AdmissionResponse {
	t.Helper()
	answer := s.post(t, path, "application/json", marshal(t, review))
	if answer.Kind != "AdmissionReview" || answer.APIVersion != "admission.k8s.io/v1" || answer.Response.UID != review.Request.UID {
		t.Errorf("not an answer to this review: %+v", answer)
	}
	return answer.Response
}

func (s server) post(t *testing.T, path, contentType string, body []byte) admissionv1.AdmissionReview {
	t.Helper()
	answer, err := s.Client().Post(s.URL+path, contentType, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return decodeReview(t, answer.StatusCode, content)
}

// decodeReview wants an admission review, whatever was asked.
func decodeReview(t *testing.T, status int, content []byte) admissionv1.AdmissionReview {
	t.Helper()
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(content, &review); err != nil || review.Response == nil || status != http.StatusOK {
		t.Fatalf("HTTP %d and no admission review: %v\n%s", status, err, content)
	}
	return review
}

// reviewOf is an API server's review of an object, and the path that it goes to.
func reviewOf(kind patches.Kind, object string) (path string, review *admissionv1.AdmissionReview) {
	path, gvk := webhook.DeploymentPath, metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	if kind == patches.Pod {
		path, gvk = webhook.PodPath, metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}
	}
	return path, &admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "0b5a0c1e", Kind: gvk, Operation: admissionv1.Create, Namespace: "istio-system", Name: "istiod",
			Object: runtime.RawExtension{Raw: []byte(object)},
		},
	}
}

// patched is the object with the answer's patch applied, as an API server does.
func patched(t *testing.T, object, patch []byte) []byte {
	t.Helper()
	if len(patch) == 0 {
		return object
	}
	operations, err := evanphx.DecodePatch(patch)
	if err != nil {
		t.Fatalf("%v: %s", err, patch)
	}
	after, err := operations.Apply(object)
	if err != nil {
		t.Fatalf("%s does not apply to %s: %v", patch, object, err)
	}
	return after
}

func marshal(t testing.TB, value any) []byte {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
