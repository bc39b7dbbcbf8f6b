// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Check calls each webhook of the configuration as an API server does: over TLS, trusting only the caBundle, with a sample
// object in the review. It returns one sentence per webhook, or the first failure.
func Check(ctx context.Context, configuration *admissionregistrationv1.MutatingWebhookConfiguration) ([]string, error) {
	if len(configuration.Webhooks) == 0 {
		return nil, fmt.Errorf("MutatingWebhookConfiguration %s contains no webhook", configuration.Name)
	}
	var passed []string
	for _, hook := range configuration.Webhooks {
		outcome, err := callWebhook(ctx, hook)
		if err != nil {
			return passed, fmt.Errorf("webhook %s: %w", hook.Name, err)
		}
		passed = append(passed, fmt.Sprintf("webhook %s %s", hook.Name, outcome))
	}
	return passed, nil
}

func callWebhook(ctx context.Context, hook admissionregistrationv1.MutatingWebhook) (string, error) {
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(hook.ClientConfig.CABundle) {
		return "", errors.New("its caBundle contains no certificate, so no API server can call it; check that a replica of the webhook runs, or, with cert-manager, its cainjector")
	}
	address, err := address(hook.ClientConfig)
	if err != nil {
		return "", err
	}
	review, err := json.Marshal(sampleReview(hook))
	if err != nil {
		return "", err
	}

	clientCertRequested := false
	config := &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { // once the server's own is verified
		clientCertRequested = true
		return &tls.Certificate{}, nil // none
	}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true},
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(review))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil && clientCertRequested {
		return "requires a client certificate of server.clientCA, which this check does not have; the API server trusts its serving certificate", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("reading the answer of %s: %w", address, err)
	}
	var decoded admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &decoded); err != nil || decoded.Response == nil || answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered with HTTP status %s, not with an admission response", address, answer.Status)
	}
	switch {
	case !isFor(hook, "virtualmeshes"):
		return checkIstiodResponse(decoded.Response)
	case !decoded.Response.Allowed:
		return "", errors.New("it refused an empty sample VirtualMesh")
	}
	return "admits a VirtualMesh", nil
}

func isFor(hook admissionregistrationv1.MutatingWebhook, resource string) bool {
	return slices.ContainsFunc(hook.Rules, func(rule admissionregistrationv1.RuleWithOperations) bool {
		return slices.Contains(rule.Resources, resource)
	})
}

func checkIstiodResponse(response *admissionv1.AdmissionResponse) (string, error) {
	message := "without a message"
	if response.Result != nil {
		message = response.Result.Message
	}
	if !response.Allowed || len(response.Patch) == 0 {
		return "", fmt.Errorf("it did not inject a sample istiod: allowed=%t, %s", response.Allowed, message)
	}
	return "injects: " + message, nil
}

func address(client admissionregistrationv1.WebhookClientConfig) (string, error) {
	switch {
	case client.URL != nil:
		return *client.URL, nil
	case client.Service == nil:
		return "", errors.New("its clientConfig names neither a service nor a URL")
	}
	service := client.Service
	port, path := int32(443), ""
	if service.Port != nil {
		port = *service.Port
	}
	if service.Path != nil {
		path = *service.Path
	}
	return "https://" + net.JoinHostPort(service.Name+"."+service.Namespace+".svc", strconv.Itoa(int(port))) + path, nil
}

// sampleReview is a dry run that creates the smallest object that the webhook accepts.
func sampleReview(hook admissionregistrationv1.MutatingWebhook) admissionv1.AdmissionReview {
	const spec = `{"containers":[{"name":"discovery","image":"pilot"}]}`
	kind := metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}
	resource := metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	object := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"istiod"},"spec":{"template":{"metadata":{},"spec":` + spec + `}}}`
	switch {
	case isFor(hook, "virtualmeshes"):
		kind = metav1.GroupVersionKind{Group: "networking.mesh.gloo.solo.io", Version: "v1", Kind: "VirtualMesh"}
		resource = metav1.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: "virtualmeshes"}
		object = `{"apiVersion":"networking.mesh.gloo.solo.io/v1","kind":"VirtualMesh","metadata":{"name":"istiod"},"spec":{}}`
	case isFor(hook, "pods"):
		kind = metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}
		resource = metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
		object = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"istiod"},"spec":` + spec + `}`
	}
	return admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admissionv1.AdmissionRequest{
			UID: "istiod-agent-check", Kind: kind, Resource: resource,
			Name: "istiod", Namespace: "istiod-agent-check", Operation: admissionv1.Create,
			DryRun: new(true), Object: runtime.RawExtension{Raw: []byte(object)},
		},
	}
}
