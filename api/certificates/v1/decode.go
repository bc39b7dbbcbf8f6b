// SPDX-License-Identifier: Apache-2.0

package v1

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/internal/strict"
)

// MaxFileSize is the most that Decode reads, in bytes: an API server takes no
// larger object either.
const MaxFileSize = 1 << 20

// Decode reads an IssuedCertificate from a file's content, one document in YAML
// or JSON. Unlike an API server it refuses a field that it does not know, which
// is most often a misspelt one, and it names every mistake with its path. No
// error quotes a value: it may be a token in the wrong place. A status is not
// read, and nothing needs a name. Defaults are not filled in.
func Decode(content []byte) (*IssuedCertificate, error) {
	if len(content) > MaxFileSize {
		return nil, fmt.Errorf("expected an %s of at most %d bytes, found %d", Kind, MaxFileSize, len(content))
	}
	tree, err := strict.Parse(content)
	if errors.Is(err, strict.ErrNoMapping) {
		return nil, fmt.Errorf("%w that starts with apiVersion: %s and kind: %s", err, GroupVersion, Kind)
	}
	if err != nil {
		return nil, err
	}
	mistakes := append(
		stated(tree, "apiVersion", GroupVersion.String()),
		stated(tree, "kind", Kind)...)
	if len(mistakes) > 0 {
		return nil, strict.MistakesError(mistakes) // the fields of something else would all be wrong
	}
	delete(tree, "status")
	certificate, mistakes := strict.Into[IssuedCertificate](tree)
	if len(mistakes) > 0 {
		for _, mistake := range mistakes {
			mistake.BadValue = field.OmitValueType{}
		}
		return nil, strict.MistakesError(mistakes)
	}
	return certificate, nil
}

// stated wants one of the two fields that say what a document is.
func stated(tree map[string]any, name, want string) field.ErrorList {
	switch path := field.NewPath(name); tree[name] {
	case want:
		return nil
	case nil:
		return field.ErrorList{field.Required(path, fmt.Sprintf("expected %q", want))}
	default:
		return field.ErrorList{field.Invalid(path, tree[name], fmt.Sprintf("expected %q", want))}
	}
}
