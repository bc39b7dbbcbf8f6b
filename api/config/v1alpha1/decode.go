// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	goyaml "go.yaml.in/yaml/v2"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Decode reads a configuration file's content, strictly: it answers with every
// mistake found, each with its field's path, or with a complete configuration,
// defaults filled in.
func Decode(content []byte) (*InjectionConfiguration, error) {
	if err := single(content); err != nil {
		return nil, err
	}
	asJSON, err := yaml.YAMLToJSONStrict(content)
	if err != nil {
		return nil, fmt.Errorf("not YAML: %w", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(asJSON, &tree); err != nil || tree == nil {
		return nil, fmt.Errorf("expected a YAML mapping that starts with apiVersion: %s and kind: %s", APIVersion, Kind)
	}

	mistakes := misfits(nil, tree, func(subtree any) any { return subtree })
	config := &InjectionConfiguration{}
	// What misfits is gone from the tree, so this cannot fail.
	if err := strictly(tree, config); err != nil {
		return nil, err
	}
	config.setDefaults()
	for _, invalid := range config.validate() {
		within := func(misfit *field.Error) bool {
			rest, ok := strings.CutPrefix(invalid.Field, misfit.Field)
			return ok && (rest == "" || strings.ContainsAny(rest[:1], ".["))
		}
		if !slices.ContainsFunc(mistakes, within) {
			mistakes = append(mistakes, invalid)
		}
	}
	if len(mistakes) > 0 {
		return nil, MistakesError(mistakes)
	}
	return config, nil
}

// MistakesError lists what is wrong in a configuration file, each with its
// field's path.
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

// single refuses a second document, which YAMLToJSONStrict would leave unread
// without a word.
func single(content []byte) error {
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

// misfits finds the values that do not fit the configuration's Go type: unknown
// fields and values of another type. A decoder stops at the first of these
// without an index; so each part that does not decode alone is taken apart
// until the smallest such parts are known; these are taken out of value, so that
// what is left can be looked at as well. within puts a part in its place in an
// otherwise empty document.
func misfits(path *field.Path, value any, within func(any) any) field.ErrorList {
	err := strictly(within(value), &InjectionConfiguration{})
	if err == nil {
		return nil
	}
	fits := func(part any) bool { return strictly(within(part), &InjectionConfiguration{}) == nil }
	if path != nil && !fits(nil) { // null fits every field there is
		return field.ErrorList{field.Forbidden(path, "there is no such field")}
	}
	var found field.ErrorList
	switch value := value.(type) {
	case map[string]any:
		if !fits(map[string]any{}) {
			break
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			inPlace := func(part any) any { return within(map[string]any{key: part}) }
			found = append(found, misfits(child(path, key), value[key], inPlace)...)
			if !fits(map[string]any{key: value[key]}) {
				delete(value, key)
			}
		}
	case []any:
		if !fits([]any{}) {
			break
		}
		for i := range value {
			inPlace := func(part any) any { return within([]any{part}) }
			found = append(found, misfits(path.Index(i), value[i], inPlace)...)
			if !fits([]any{value[i]}) {
				value[i] = nil
			}
		}
	}
	if len(found) == 0 {
		found = append(found, field.Invalid(path, value, expectation(err)))
	}
	return found
}

func child(path *field.Path, key string) *field.Path {
	if path == nil {
		return field.NewPath(key)
	}
	return path.Child(key)
}

// strictly decodes a tree into the configuration: case-sensitive, unknown
// fields refused.
func strictly(tree any, into *InjectionConfiguration) error {
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
	return strings.TrimSpace(err.Error())
}

// kindName says a kind of Go's or JSON's in a YAML author's words.
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
	default:
		return "a " + kind
	}
}
