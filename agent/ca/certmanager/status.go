// SPDX-License-Identifier: Apache-2.0

package certmanager

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

const (
	// maxMessage bounds what is repeated of a condition, which issuer and approver choose.
	maxMessage = 500
	// maxAnswer bounds the certificate and its chain; one has a few kilobytes.
	maxAnswer = 256 << 10
)

// status is that of a CertificateRequest (cert-manager pkg/apis/certmanager/v1/types_certificaterequest.go).
type status struct {
	Conditions []struct {
		Type    string `json:"type"`
		Status  string `json:"status"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"conditions"`
	Certificate []byte `json:"certificate"`
	CA          []byte `json:"ca"`
	FailureTime string `json:"failureTime"`
}

// condition returns a condition that has a status, and its message.
func (s *status) condition(kind, value string) (reason, message string, found bool) {
	for _, condition := range s.Conditions {
		if condition.Type == kind && condition.Status == value {
			return condition.Reason, bounded.Text(bounded.Plain(condition.Message), maxMessage), true
		}
	}
	return "", "", false
}

// decided returns the status of a signed request, an error for a refused one, or why it still waits.
func (s *source) decided(object *unstructured.Unstructured) (*status, *ca.PendingError, error) {
	name := object.GetName()
	if object.GetUID() != s.pending.uid {
		return nil, nil, &ca.Error{Reason: deleted, Cause: fmt.Errorf("CertificateRequest %s was replaced by another one of its name; the agent creates another one", name)}
	}
	var of struct {
		Status status `json:"status"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &of); err != nil {
		return nil, nil, &ca.Error{Reason: badAnswer, Cause: fmt.Errorf("the status of CertificateRequest %s has another form than expected; check the issuer: %w", name, err)}
	}
	refused := func(reason, what, message, remedy string) error {
		return &ca.Error{Reason: reason, Cause: fmt.Errorf("%s CertificateRequest %s: %s; %s", what, name, message, remedy)}
	}
	found := &of.Status
	if _, message, ok := found.condition("Denied", "True"); ok { // which must never be signed, so it counts first
		return nil, nil, refused(denied, "an approver denied", message, "change the approver's policy, or the specification to match it")
	}
	if _, message, ok := found.condition("InvalidRequest", "True"); ok {
		return nil, nil, refused(invalid, s.String()+" cannot sign", message, "correct the specification, or choose an issuer that signs CAs")
	}
	reason, message, unready := found.condition("Ready", "False")
	if unready && reason == "Failed" || found.FailureTime != "" {
		return nil, nil, refused(failed, s.String()+" failed to sign", message, "check the issuer's status and log; it must sign CA certificates, not only those of servers and clients")
	}
	if _, _, ok := found.condition("Ready", "True"); ok {
		if len(found.Certificate)+len(found.CA) > maxAnswer {
			return nil, nil, refused(badAnswer, "the answer to", fmt.Sprintf("it has %d bytes, more than %d", len(found.Certificate)+len(found.CA), maxAnswer), "check the issuer")
		}
		return found, nil, nil
	}
	if _, _, ok := found.condition("Approved", "True"); !ok {
		return nil, &ca.PendingError{Reason: unapproved, Cause: fmt.Errorf("CertificateRequest %s waits for an approval: cmctl approve %s, or see the approver's policies", name, name)}, nil
	}
	if message == "" {
		message = "it has not answered yet"
	}
	return nil, &ca.PendingError{Reason: undecided, Cause: fmt.Errorf("CertificateRequest %s waits for %s: %s", name, s, message)}, nil
}

// chain returns the certificate, and the others of an answer, each once.
func (s *status) chain() (certificate []byte, others [][]byte, err error) {
	rest := slices.Concat(s.Certificate, []byte("\n"), s.CA)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		one := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
		switch {
		case certificate == nil:
			certificate = one
		case !bytes.Equal(one, certificate) && !slices.ContainsFunc(others, func(other []byte) bool { return bytes.Equal(one, other) }):
			others = append(others, one)
		}
	}
	if len(s.Certificate) == 0 || certificate == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, &ca.Error{Reason: badAnswer, Cause: fmt.Errorf("the CertificateRequest is Ready, and its certificate or ca is not PEM; check the issuer")}
	}
	return certificate, others, nil
}
