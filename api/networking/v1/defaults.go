// SPDX-License-Identifier: Apache-2.0

package v1

import certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"

// SetDefaults sets absent fields of a VirtualMesh with an intermediate CA as Gloo Mesh's translator does (see package
// certificates/v1). It keeps all others, even invalid ones, and is idempotent.
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
