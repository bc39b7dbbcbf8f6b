// SPDX-License-Identifier: Apache-2.0

// Package strict reads a YAML or JSON file into a Go value and reports every part that does not fit. A decoder stops at the
// first one and does not report its position in a list.
package strict

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	goyaml "go.yaml.in/yaml/v2"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// MistakesError lists the mistakes in a file, each with its field's path.
type MistakesError field.ErrorList

// Error lists them, one a line when there are several.
func (m MistakesError) Error() string {
	if len(m) == 1 {
		return m[0].Error()
	}
	lines := []string{fmt.Sprintf("%d mistakes:", len(m))}
	for _, mistake := range m {
		lines = append(lines, "  "+mistake.Error())
	}
	return strings.Join(lines, "\n")
}

// MaxFileSize is the maximum size of a file in bytes: the API server stores no larger object.
const MaxFileSize = 1 << 20

// Object reads a Kubernetes object from a file's content, one document in YAML or JSON. Unlike an API server it refuses
// unknown fields, most of which are misspelt. Every mistake has its path; none quotes a value, which may be a token in the
// wrong place. A status is ignored.
func Object[T any](content []byte, apiVersion, kind string) (*T, error) {
	tree, err := Parse(content, apiVersion, kind)
	if err != nil {
		return nil, err
	}
	mistakes := append(requireField(tree, "apiVersion", apiVersion), requireField(tree, "kind", kind)...)
	if len(mistakes) > 0 {
		return nil, MistakesError(mistakes) // the fields of something else would all be wrong
	}
	delete(tree, "status")
	object, mistakes := Into[T](tree)
	if len(mistakes) > 0 {
		return nil, MistakesError(withoutValues(mistakes))
	}
	return object, nil
}

// Stored reads an object from an API server, without its status. It returns unknown fields, which an API server may keep for
// other programs, apart from values of a wrong type. Neither quotes a value.
func Stored[T any](object map[string]any) (into *T, unknown, mismatches field.ErrorList) {
	tree := runtime.DeepCopyJSON(object)
	delete(tree, "status")
	into, errs := Into[T](tree)
	for _, mistake := range withoutValues(errs) {
		switch {
		case mistake.Type != field.ErrorTypeForbidden: // Into uses Forbidden only for unknown fields
			mismatches = append(mismatches, mistake)
		case !strings.HasPrefix(mistake.Field, "metadata."): // the API server validates metadata, in its own version
			unknown = append(unknown, mistake)
		}
	}
	return into, unknown, mismatches
}

func withoutValues(mistakes field.ErrorList) field.ErrorList {
	for _, mistake := range mistakes {
		mistake.BadValue = field.OmitValueType{}
	}
	return mistakes
}

func requireField(tree map[string]any, name, want string) field.ErrorList {
	switch path := field.NewPath(name); tree[name] {
	case want:
		return nil
	case nil:
		return field.ErrorList{field.Required(path, fmt.Sprintf("expected %q", want))}
	default:
		return field.ErrorList{field.Invalid(path, tree[name], fmt.Sprintf("expected %q", want))}
	}
}

// Parse reads the single mapping of a file that holds an object of this version and kind, which it does not check.
// It refuses a duplicate key and a second document, which a decoder would ignore.
func Parse(content []byte, apiVersion, kind string) (map[string]any, error) {
	if len(content) > MaxFileSize {
		return nil, fmt.Errorf("expected one %s, of at most %d bytes, found %d", kind, MaxFileSize, len(content))
	}
	if err := requireSingleDocument(content); err != nil {
		return nil, err
	}
	asJSON, err := yaml.YAMLToJSONStrict(content)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(asJSON, &tree); err != nil || tree == nil {
		return nil, fmt.Errorf("expected a YAML mapping that starts with apiVersion: %s and kind: %s", apiVersion, kind)
	}
	return tree, nil
}

func requireSingleDocument(content []byte) error {
	documents := goyaml.NewDecoder(bytes.NewReader(content))
	for n := 0; ; n++ {
		var document any
		err := documents.Decode(&document)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("not YAML: %w", err)
		case n > 0 && document != nil:
			return errors.New(`expected one YAML document, found another below a line "---"`)
		}
	}
}

// maxMistakes bounds the reported mistakes; one more reports that there are others.
const maxMistakes = 100

// Into decodes the parts that fit T and reports the others: unknown fields, including those in the wrong case, and values of
// another type. It removes them from the tree.
func Into[T any](tree map[string]any) (*T, field.ErrorList) {
	remaining := maxMistakes
	mismatches := mismatches[T](nil, tree, func(subtree any) any { return subtree }, &remaining)
	if remaining <= 0 {
		mismatches = append(mismatches, field.Invalid(field.NewPath("spec"), field.OmitValueType{}, fmt.Sprintf("holds more than %d unknown fields and misfits; only the first are listed", maxMistakes)))
	}
	into := new(T)
	if err := decode(tree, into); err != nil && len(mismatches) == 0 {
		mismatches = append(mismatches, field.Invalid(nil, field.OmitValueType{}, expectation(err)))
	}
	return into, mismatches
}

// mismatches divides each part that does not decode alone, down to the smallest such parts. embed puts a part at its place in
// an otherwise empty document.
func mismatches[T any](path *field.Path, value any, embed func(any) any, remaining *int) field.ErrorList {
	err := decode(embed(value), new(T))
	if err == nil {
		return nil
	}
	fits := func(part any) bool { return decode(embed(part), new(T)) == nil }
	if path != nil && !fits(nil) { // null fits every field there is
		*remaining--
		return field.ErrorList{field.Forbidden(path, "there is no such field")}
	}
	var errs field.ErrorList
	switch value := value.(type) {
	case map[string]any:
		if !fits(map[string]any{}) {
			break
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if *remaining <= 0 {
				break
			}
			inPlace := func(part any) any { return embed(map[string]any{key: part}) }
			errs = append(errs, mismatches[T](path.Child(key), value[key], inPlace, remaining)...)
			if !fits(map[string]any{key: value[key]}) {
				delete(value, key)
			}
		}
	case []any:
		if !fits([]any{}) {
			break
		}
		for i := range value {
			if *remaining <= 0 {
				break
			}
			inPlace := func(part any) any { return embed([]any{part}) }
			errs = append(errs, mismatches[T](path.Index(i), value[i], inPlace, remaining)...)
			if !fits([]any{value[i]}) {
				value[i] = nil
			}
		}
	}
	if len(errs) == 0 && *remaining > 0 {
		*remaining--
		errs = append(errs, field.Invalid(path, value, expectation(err)))
	}
	return errs
}

// decode is case-sensitive and refuses unknown fields.
func decode(tree, into any) error {
	raw, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	unknown, err := kjson.UnmarshalStrict(raw, into)
	return errors.Join(err, errors.Join(unknown...))
}

func expectation(err error) string {
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		found, isNumber := strings.CutPrefix(mismatch.Value, "number ")
		if !isNumber {
			found = kindName(found)
		}
		return fmt.Sprintf("expected %s, found %s", kindName(mismatch.Type.Kind().String()), found)
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return "expected base64"
	}
	return strings.TrimSpace(err.Error())
}

// kindName translates a kind of Go or JSON for a YAML author.
func kindName(kind string) string {
	switch {
	case kind == "struct" || kind == "map" || kind == "object":
		return "a mapping"
	case kind == "slice" || kind == "array":
		return "a list"
	case kind == "bool":
		return "true or false"
	case strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint"):
		return "a whole number"
	case strings.HasPrefix(kind, "float"):
		return "a number"
	default:
		return "a " + kind
	}
}
