// SPDX-License-Identifier: Apache-2.0

package v1

import "github.com/istiod-agent/istiod-agent/internal/strict"

// MaxFileSize is the size, in bytes, of the largest file that Decode reads; an API server takes no larger object
// either.
const MaxFileSize = strict.MaxFileSize

// Decode reads an IssuedCertificate from a file: one document in YAML or JSON. Unlike an API server it rejects unknown
// fields, which are mostly misspelt, and reports every mistake with its path. No error quotes a value, which may be a
// misplaced token. It ignores the status, requires no name and sets no defaults.
func Decode(content []byte) (*IssuedCertificate, error) {
	return strict.Object[IssuedCertificate](content, GroupVersion.String(), Kind)
}
