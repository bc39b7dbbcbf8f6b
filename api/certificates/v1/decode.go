// SPDX-License-Identifier: Apache-2.0

package v1

import "github.com/istiod-agent/istiod-agent/internal/strict"

// MaxFileSize is the most that Decode reads, in bytes: an API server takes no
// larger object either.
const MaxFileSize = strict.MaxFileSize

// Decode reads an IssuedCertificate from a file's content, one document in YAML
// or JSON. Unlike an API server it refuses a field that it does not know, which
// is most often a misspelt one, and it names every mistake with its path. No
// error quotes a value: it may be a token in the wrong place. A status is not
// read, and nothing needs a name. Defaults are not filled in.
func Decode(content []byte) (*IssuedCertificate, error) {
	return strict.Object[IssuedCertificate](content, GroupVersion.String(), Kind)
}
