// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

func TestAMalformedReviewIsAnsweredWithAReason(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	_, review := reviewOf(patches.Deployment, deployment)
	good := string(marshal(t, review))
	tests := map[string]struct {
		contentType, body string
		code              int32
		says              string
	}{
		"no body":           {body: "", code: http.StatusBadRequest, says: "request body is empty"},
		"cut off":           {body: good[:len(good)/2], code: http.StatusBadRequest, says: "unexpected end of JSON input"},
		"not JSON":          {body: "<review/>", code: http.StatusBadRequest, says: "couldn't get version/kind; json parse error"},
		"null":              {body: "null", code: http.StatusBadRequest, says: `asked about kind ""`},
		"a list":            {body: "[]", code: http.StatusBadRequest, says: "cannot unmarshal array"},
		"another kind":      {body: `{"apiVersion":"v1","kind":"Pod"}`, code: http.StatusBadRequest, says: `asked about kind ""`},
		"another version":   {body: `{"apiVersion":"admission.k8s.io/v9","kind":"AdmissionReview"}`, code: http.StatusBadRequest, says: `asked about kind ""`},
		"no request":        {body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, code: http.StatusBadRequest, says: `asked about kind ""`},
		"a null request":    {body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}`, code: http.StatusBadRequest, says: `asked about kind ""`},
		"a text as request": {body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"now"}`, code: http.StatusBadRequest, says: "cannot unmarshal string"},
		"another content type": {
			contentType: "application/yaml", body: good, code: http.StatusBadRequest, says: "contentType=application/yaml, expected application/json",
		},
		"more than any object may hold": {
			body: strings.Replace(good, `"discovery"`, `"`+strings.Repeat("x", 8<<20)+`"`, 1), code: http.StatusRequestEntityTooLarge, says: "request entity is too large",
		},
		"20,000 levels of lists": {
			body: strings.Replace(good, `"discovery"`, strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000), 1), code: http.StatusBadRequest, says: "exceeded max depth",
		},
		"20,000 levels of objects": {
			body: strings.Replace(good, `"discovery"`, strings.Repeat(`{"a":`, 20_000)+"1"+strings.Repeat("}", 20_000), 1), code: http.StatusBadRequest, says: "exceeded max depth",
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
		})
	}
}

func TestAMisdirectedReviewIsAnsweredWithAReason(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	tests := map[string]struct {
		change func(*admissionv1.AdmissionRequest)
		says   string
	}{
		"another kind":  {func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = "Pod" }, `answers for kind Deployment, and was asked about kind "Pod"`},
		"no kind":       {func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = "" }, `was asked about kind ""`},
		"a subresource": {func(r *admissionv1.AdmissionRequest) { r.SubResource = "scale" }, `answers for whole objects, and was asked about subresource "scale"`},
		"a deletion":    {func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Delete }, `answers for CREATE and UPDATE, and was asked about "DELETE"`},
		"a connection":  {func(r *admissionv1.AdmissionRequest) { r.Operation = admissionv1.Connect }, `was asked about "CONNECT"`},
		"no operation":  {func(r *admissionv1.AdmissionRequest) { r.Operation = "" }, `was asked about ""`},
		"no object":     {func(r *admissionv1.AdmissionRequest) { r.Object.Raw = nil }, "holds no object"},
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

func TestAnObjectOfAStrangeShapeIsDenied(t *testing.T) {
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

func TestAnOlderAPIServerIsAnsweredInItsOwnVersion(t *testing.T) {
	t.Parallel()
	s := serve(t, "", logr.Discard())
	path, review := reviewOf(patches.Deployment, deployment)
	review.APIVersion = "admission.k8s.io/v1beta1"
	answer := s.post(t, path, "application/json", marshal(t, review))
	if answer.APIVersion != review.APIVersion || !answer.Response.Allowed || len(answer.Response.Patch) == 0 {
		t.Errorf("got %+v", answer)
	}
}
