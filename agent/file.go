// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"fmt"
	"os"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/regular"
)

// File is a specification in a file, an IssuedCertificate in YAML or JSON. Each Current reads it, so that a change takes
// effect within machine.PollInterval.
type File struct {
	Path     string
	Identity Identity

	content     []byte
	certificate *certificatesv1.IssuedCertificate
	warnings    []string
	err         error
}

// Current implements Specifications.
func (f *File) Current() (*certificatesv1.IssuedCertificate, []string, error) {
	content, err := regular.Read(f.Path, certificatesv1.MaxFileSize)
	if err != nil {
		return nil, nil, &SpecificationError{Missing: os.IsNotExist(err), Err: fmt.Errorf("--spec: %w", err)}
	}
	if f.content == nil || !bytes.Equal(content, f.content) {
		f.content = content
		f.certificate, f.warnings, f.err = f.decode(content)
	}
	return f.certificate, f.warnings, f.err
}

func (f *File) decode(content []byte) (*certificatesv1.IssuedCertificate, []string, error) {
	decoded, err := certificatesv1.Decode(content)
	if err != nil {
		return nil, nil, &SpecificationError{Err: fmt.Errorf("--spec %s: %w", f.Path, err)}
	}
	decoded.Status = certificatesv1.IssuedCertificateStatus{} // of no replica
	prepared, warnings, err := prepare(decoded)
	if err != nil {
		return nil, warnings, &SpecificationError{Err: fmt.Errorf("--spec %s: %w", f.Path, err)}
	}
	if f.Identity.ServiceAccount != "" && !istio.Covers(prepared.Spec.Hosts, f.Identity.Namespace, f.Identity.ServiceAccount) {
		warnings = append(warnings, fmt.Sprintf("--spec %s: spec.hosts does not contain this istiod, %s", f.Path, f.Identity.Host()))
	}
	return prepared, warnings, nil
}

// Changed implements Specifications: a file is polled.
func (f *File) Changed() <-chan struct{} { return nil }
