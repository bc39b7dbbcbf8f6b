// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

func TestMalformedReview(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	_, review := reviewOf(patches.Deployment, deployment)
	good := string(marshal(t, review))
	tests := map[string]struct {
		contentType, body string
		code              int32
		says              string
	}{
		"no body":           {body: "", code: http.StatusBadRequest, says: "expected an admission review, got an empty request"},
		"cut off":           {body: good[:len(good)/2], code: http.StatusBadRequest, says: "unexpected end of JSON input"},
		"not JSON":          {body: "<review/>", code: http.StatusBadRequest, says: "expected an admission review: invalid character '<'"},
		"null":              {body: "null", code: http.StatusBadRequest, says: `and kind AdmissionReview, got "" and ""`},
		"a list":            {body: "[]", code: http.StatusBadRequest, says: "cannot unmarshal array"},
		"another kind":      {body: `{"apiVersion":"v1","kind":"Pod"}`, code: http.StatusBadRequest, says: `expected apiVersion admission.k8s.io/v1 and kind AdmissionReview, got "v1" and "Pod"`},
		"another version":   {body: `{"apiVersion":"admission.k8s.io/v9","kind":"AdmissionReview"}`, code: http.StatusBadRequest, says: `got "admission.k8s.io/v9" and "AdmissionReview"`},
		"no request":        {body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, code: http.StatusBadRequest, says: "the admission review contains no request"},
		"a null request":    {body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}`, code: http.StatusBadRequest, says: "the admission review contains no request"},
		"a text as request": {body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"now"}`, code: http.StatusBadRequest, says: "cannot unmarshal string"},
		"another content type": {
			contentType: "application/yaml", body: good, code: http.StatusBadRequest, says: `expected Content-Type application/json, got "application/yaml"`,
		},
		"more than any object may hold": {
			body: strings.Replace(good, `"discovery"`, `"`+strings.Repeat("x", 8<<20)+`"`, 1), code: http.StatusRequestEntityTooLarge, says: "larger than 4194304 bytes",
		},
		"a hundred times the values of an istiod": {
			body: strings.Replace(good, `"discovery"`, `[`+strings.Repeat("0,", 200_000)+`0]`, 1), code: http.StatusBadRequest, says: "contains more than 50000 values",
		},
		"20,000 levels of lists": {
			body: strings.Replace(good, `"discovery"`, strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000), 1), code: http.StatusBadRequest, says: "exceeded max depth",
		},
		"20,000 levels of objects": {
			body: strings.Replace(good, `"discovery"`, strings.Repeat(`{"a":`, 20_000)+"1"+strings.Repeat("}", 20_000), 1), code: http.StatusBadRequest, says: "exceeded max depth",
		},
		"an endless number": {
			body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"status":{"code":` + strings.Repeat("1", 1<<20) + `}}}`, code: http.StatusBadRequest, says: "cannot unmarshal number 111",
		},
		"20,000 levels, never closed": {
			body: strings.Repeat(`{"request":`, 20_000), code: http.StatusBadRequest, says: "exceeded max depth",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.contentType == "" {
				test.contentType = "application/json"
			}
			answer := s.post(t, webhook.DeploymentPath, test.contentType, []byte(test.body)).Response
			if answer.Allowed || answer.Result.Code != test.code || !strings.Contains(answer.Result.Message, test.says) {
				t.Errorf("allowed=%t, code %d, %.300q; want code %d and %q", answer.Allowed, answer.Result.Code, answer.Result.Message, test.code, test.says)
			}
			if answer.AuditAnnotations["reason"] != string(patches.Malformed) || len(answer.Result.Message) > 300 {
				t.Errorf("audit annotations %v, and %d bytes of message", answer.AuditAnnotations, len(answer.Result.Message))
			}
		})
	}
}

func TestMisdirectedReview(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	tests := map[string]struct {
		change func(*admissionv1.AdmissionRequest)
		says   string
	}{
		"another kind":  {func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = "Pod" }, `handles kind Deployment, not kind "Pod"`},
		"no kind":       {func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = "" }, `not kind ""`},
		"a subresource": {func(r *admissionv1.AdmissionRequest) { r.SubResource = "scale" }, `handles whole objects, not subresource "scale"`},
		"a deletion":    {func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Delete }, `handles CREATE and UPDATE, not "DELETE"`},
		"a connection":  {func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Connect }, `CREATE and UPDATE, not "CONNECT"`},
		"no operation":  {func(r *admissionv1.AdmissionRequest) { r.Operation = "" }, `CREATE and UPDATE, not ""`},
		"no object":     {func(r *admissionv1.AdmissionRequest) { r.Object.Raw = nil }, "contains no object"},
		"a very long kind": {
			func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = strings.Repeat("long", 1000) }, strings.Repeat("long", 16) + `…"`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, review := reviewOf(patches.Deployment, deployment)
			test.change(review.Request)
			answer := s.ask(t, path, review)
			if answer.Allowed || answer.Result.Code != http.StatusBadRequest || !strings.HasSuffix(answer.Result.Message, test.says) {
				t.Errorf("allowed=%t, code %d, %q; want %q", answer.Allowed, answer.Result.Code, answer.Result.Message, test.says)
			}
			if len(answer.Patch) > 0 || answer.AuditAnnotations["reason"] != string(patches.Malformed) {
				t.Errorf("patch %s, audit annotations %v", answer.Patch, answer.AuditAnnotations)
			}
		})
	}
}

func TestMalformedObject(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	for name, object := range map[string]string{
		"a text":                    `"istiod"`,
		"a number":                  `5`,
		"a list":                    `[{"spec":{}}]`,
		"empty":                     `{}`,
		"a spec that is a text":     `{"spec":"x"}`,
		"a template that is a list": `{"spec":{"template":[]}}`,
		"a pod spec that is null":   `{"spec":{"template":{"spec":null}}}`,
		"containers are an object":  `{"spec":{"template":{"spec":{"containers":{"name":"discovery"}}}}}`,
		"containers are texts":      `{"spec":{"template":{"spec":{"containers":["discovery",null,5,[]]}}}}`,
		"a name that is a number":   `{"spec":{"template":{"spec":{"containers":[{"name":5}]}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, review := reviewOf(patches.Deployment, object)
			answer := s.ask(t, path, review)
			if answer.Allowed || len(answer.Patch) > 0 || answer.Result.Code != http.StatusForbidden {
				t.Errorf("allowed=%t, code %d, patch %s: %s", answer.Allowed, answer.Result.Code, answer.Patch, answer.Result.Message)
			}
		})
	}
}

func TestReviewV1beta1(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	path, review := reviewOf(patches.Deployment, deployment)
	review.APIVersion = "admission.k8s.io/v1beta1"
	answer := s.post(t, path, "application/json", marshal(t, review))
	if answer.APIVersion != review.APIVersion || !answer.Response.Allowed || len(answer.Response.Patch) == 0 {
		t.Errorf("got %+v", answer)
	}
}

func TestReviewEncodings(t *testing.T) {
	t.Parallel()
	path, review := reviewOf(patches.Deployment, deployment)
	large := *review.Request
	large.Object.Raw = []byte(strings.Replace(deployment, `"metadata":{`, `"metadata":{"annotations":{"note":"`+strings.Repeat("x", 1<<20)+`"},`, 1))
	tests := map[string]struct {
		contentType string
		request     *admissionv1.AdmissionRequest
		length      int64
	}{
		"of a known length":                        {"application/json", review.Request, 0},
		"of a length that is not said":             {"application/json", review.Request, -1},
		"with the encoding named":                  {"application/json; charset=utf-8", review.Request, 0},
		"larger than what is set aside":            {"application/json", &large, 0},
		"larger, and of a length that is not said": {"application/json", &large, -1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := marshal(t, &admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Request: test.request})
			request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(body))
			request.Header.Set("Content-Type", test.contentType)
			if test.length != 0 {
				request.ContentLength = test.length
			}
			answer := httptest.NewRecorder()
			handler(t, "", logr.Discard()).ServeHTTP(answer, request)
			response := decodeReview(t, answer.Code, answer.Body.Bytes()).Response
			if !response.Allowed || len(response.Patch) == 0 || answer.Header().Get("Content-Type") != "application/json" {
				t.Errorf("%s: allowed=%t, %d bytes of patch, %v", response.Result.Message, response.Allowed, len(response.Patch), answer.Header())
			}
		})
	}
}

func TestHandlerPanic(t *testing.T) {
	t.Parallel()
	broken := admission.HandlerFunc(func(context.Context, admission.Request) admission.Response { panic("no map") })
	_, review := reviewOf(patches.Deployment, deployment)
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(marshal(t, review)))
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	webhook.Served(broken, logr.Discard()).ServeHTTP(answer, request)
	response := decodeReview(t, answer.Code, answer.Body.Bytes()).Response
	if response.Allowed || response.Result.Code != http.StatusInternalServerError || response.UID != review.Request.UID {
		t.Errorf("got %+v", response)
	}
}
