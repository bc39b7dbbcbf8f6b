// SPDX-License-Identifier: Apache-2.0

package v1

import certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"

// SetDefaults fills in what is absent where certificates come from an intermediate
// CA, as Gloo Mesh's translator does (see certificatesv1's defaults). What is there
// stays, even where Validate refuses it, and what is not acted on stays as it is.
// Doing it twice changes nothing.
func (s *VirtualMeshSpec) SetDefaults() {
	ca := s.IntermediateCA()
	if ca == nil {
		return
	}
	shared := s.MTLSConfig.Shared
	if shared.IntermediateCertOptions == nil {
		shared.IntermediateCertOptions = &certificatesv1.CertOptions{}
	}
	shared.IntermediateCertOptions.SetDefaults("")
	ca.SetDefaults()
}
