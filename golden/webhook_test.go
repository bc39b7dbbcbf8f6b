// SPDX-License-Identifier: Apache-2.0

package golden_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	evanphx "github.com/evanphx/json-patch/v5"
	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// server is the webhook as it is served.
type server struct{ *httptest.Server }

type mux struct{ *http.ServeMux }

func (m mux) Register(path string, handler http.Handler) { m.Handle(path, handler) }

// serve with the configuration of a file, or the default where there is none.
func serve(t *testing.T, file string) *server {
	t.Helper()
	configuration := v1alpha1.Default()
	if exists(file) {
		var err error
		if configuration, err = v1alpha1.Decode([]byte(read(t, file))); err != nil {
			t.Fatal(err)
		}
	}
	injector, err := patches.New(configuration)
	if err != nil {
		t.Fatal(err)
	}
	paths := mux{http.NewServeMux()}
	webhook.Register(paths, injector, v1alpha1.Default().VirtualMesh, nil, logr.Discard())
	s := httptest.NewServer(paths)
	t.Cleanup(s.Close)
	return &server{s}
}

// store gives the objects as an API server would store them.
func (s *server) store(t *testing.T, objects []object) []object {
	t.Helper()
	var stored []object
	for _, o := range objects {
		if o.isIstiod() {
			answer := s.ask(t, o)
			if !answer.Allowed {
				t.Fatalf("the webhook refuses: %s", answer.Result.Message)
			}
			o = apply(t, o, answer.Patch)
		}
		stored = append(stored, o)
	}
	return stored
}

// wantAnswers wants each istiod allowed unchanged, or denied, in the words that
// the command line reports.
func (s *server) wantAnswers(t *testing.T, objects []object, allowed bool, report string) {
	t.Helper()
	for _, o := range objects {
		if !o.isIstiod() {
			continue
		}
		answer := s.ask(t, o)
		if answer.Allowed != allowed || len(answer.Patch) > 0 {
			t.Errorf("the webhook answers allowed=%t with %s", answer.Allowed, answer.Patch)
		}
		if message := answer.Result.Message; message == "" || !strings.Contains(report, strings.TrimPrefix(message, "istiod-agent: ")) {
			t.Errorf("the webhook says\n%s\nthe command line says\n%s", message, report)
		}
	}
}

// ask as an API server does when the object is created, or, being deleted, updated.
func (s *server) ask(t *testing.T, o object) *admissionv1.AdmissionResponse {
	t.Helper()
	operation := admissionv1.Create
	if o["metadata"].(map[string]any)["deletionTimestamp"] != nil {
		operation = admissionv1.Update
	}
	path, group := webhook.PodPath, ""
	if o["kind"] == "Deployment" {
		path, group = webhook.DeploymentPath, "apps"
	}
	raw := marshal(t, o)
	review := marshal(t, admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "a-uid", Operation: operation,
			Kind:   metav1.GroupVersionKind{Group: group, Version: "v1", Kind: o["kind"].(string)},
			Object: runtime.RawExtension{Raw: raw},
		},
	})
	answer, err := s.Client().Post(s.URL+path, "application/json", bytes.NewReader(review))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var decoded admissionv1.AdmissionReview
	if err := json.NewDecoder(answer.Body).Decode(&decoded); err != nil || decoded.Response == nil {
		t.Fatalf("no admission review in the answer: %v", err)
	}
	return decoded.Response
}

func apply(t *testing.T, o object, operations []byte) object {
	t.Helper()
	if len(operations) == 0 {
		return o
	}
	patch, err := evanphx.DecodePatch(operations)
	if err != nil {
		t.Fatal(err)
	}
	patched, err := patch.Apply(marshal(t, o))
	if err != nil {
		t.Fatalf("%s does not apply: %v", operations, err)
	}
	return parse(t, patched)
}

// object is a Kubernetes object as plain JSON values, numbers as they are written.
type object map[string]any

// isIstiod is what the webhook configuration selects.
func (o object) isIstiod() bool {
	metadata, _ := o["metadata"].(map[string]any)
	labels, _ := metadata["labels"].(map[string]any)
	return labels["app"] == "istiod" && slices.Contains([]any{"Deployment", "Pod"}, o["kind"])
}

// objects of a stream, those of a List one by one.
func objects(t *testing.T, stream string) []object {
	t.Helper()
	var found []object
	documents := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(stream), 4096)
	for {
		var raw json.RawMessage
		err := documents.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) == 0 || string(raw) == "null" {
			continue
		}
		o := parse(t, raw)
		items, isList := o["items"].([]any)
		if !isList {
			found = append(found, o)
		}
		for _, item := range items {
			found = append(found, item.(map[string]any))
		}
	}
}

func parse(t *testing.T, raw []byte) object {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var o object
	if err := decoder.Decode(&o); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return o
}

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
