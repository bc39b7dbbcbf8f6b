// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/json"

	"github.com/istiod-agent/istiod-agent/patches"
)

const (
	// maxReview is the most bytes of a review that are read, controller-runtime's own limit: two objects of at most
	// three megabytes, the largest that an API server takes, and one megabyte for the rest.
	maxReview = 7 << 20
	// maxAtOnce is the most bytes that are set aside on the word of a request's Content-Length: most reviews, and
	// little for whoever only says that there is more to come.
	maxAtOnce = 64 << 10
)

// Served answers HTTP requests that hold an AdmissionReview with what a handler decides. Whatever is asked, the answer
// is an AdmissionReview: also one that says why a request could not be read, or that the handler panicked. (An API server
// that sent what cannot be read looks for its UID first, and says that it is missing; the log has the reason.)
//
// It stands in for the HTTP side of controller-runtime's admission.Webhook, whose decoding goes through a review three
// times and makes two loggers for each, which takes longer than all that is decided here.
func Served(handler admission.Handler, log logr.Logger) http.Handler {
	hook := &admission.Webhook{
		Handler:        handler,
		LogConstructor: func(logr.Logger, *admission.Request) logr.Logger { return log },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review, err := readReview(w, r)
		if err != nil {
			log.Info("answered a request that is no admission review", "path", r.URL.Path, "problem", err.Error())
			review = &admissionv1.AdmissionReview{Response: &refused(err).AdmissionResponse}
			review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
		} else {
			response := hook.Handle(r.Context(), admission.Request{AdmissionRequest: *review.Request})
			review.Request, review.Response = nil, &response.AdmissionResponse
		}
		w.Header().Set("Content-Type", "application/json")
		if err := stdjson.NewEncoder(w).Encode(review); err != nil {
			log.V(1).Info("an answer was not sent: who asked is gone", "path", r.URL.Path, "problem", err.Error())
		}
	})
}

// readReview reads what is asked, in whichever version: those that exist differ in nothing but the name.
func readReview(w http.ResponseWriter, r *http.Request) (*admissionv1.AdmissionReview, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, fmt.Errorf("expected Content-Type application/json, got %s", quoted(r.Header.Get("Content-Type")))
	}
	expected := min(max(r.ContentLength, 0), maxAtOnce)
	body := bytes.NewBuffer(make([]byte, 0, expected+bytes.MinRead)) // with room left, the buffer does not grow to find the end
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxReview)); err != nil {
		return nil, fmt.Errorf("reading the admission review: %w", err)
	}
	if body.Len() == 0 {
		return nil, errors.New("expected an admission review, got an empty request")
	}
	var review admissionv1.AdmissionReview
	if err := json.UnmarshalCaseSensitivePreserveInts(body.Bytes(), &review); err != nil {
		return nil, fmt.Errorf("expected an admission review: %.200s", err.Error()) // it quotes a number, however long
	}
	switch {
	case review.Kind != "AdmissionReview" || (review.APIVersion != admissionv1.SchemeGroupVersion.String() && review.APIVersion != admissionv1beta1.SchemeGroupVersion.String()):
		return nil, fmt.Errorf("expected apiVersion %s and kind AdmissionReview, got %s and %s",
			admissionv1.SchemeGroupVersion, quoted(review.APIVersion), quoted(review.Kind))
	case review.Request == nil:
		return nil, errors.New("the admission review holds no request")
	}
	return &review, nil
}

// refused is the answer to what could not be read.
func refused(err error) *admission.Response {
	code := int32(http.StatusBadRequest)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		code = http.StatusRequestEntityTooLarge
		err = fmt.Errorf("the admission review is larger than %d bytes, the most that is read", tooLarge.Limit)
	}
	response := admission.Errored(code, err)
	response.AuditAnnotations = map[string]string{"reason": string(patches.Malformed)}
	return &response
}
