// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Decode reads a configuration file's content, strictly: it answers with every
// mistake found, each with its field's path, or with a complete configuration,
// defaults filled in.
func Decode(content []byte) (*InjectionConfiguration, error) {
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
	if len(mistakes) == 0 {
		// Nothing misfits, so this cannot fail but for a fault in misfits itself.
		if err := strictly(tree, config); err != nil {
			return nil, err
		}
		config.setDefaults()
		mistakes = config.validate()
	}
	return config, mistakes.ToAggregate()
}

// misfits finds the values that do not fit the configuration's Go type: unknown
// fields and values of another type. A decoder stops at the first of these
// without an index; so each part that does not decode alone is taken apart
// until the smallest such parts are known. within puts a part in its place in
// an otherwise empty document.
func misfits(path *field.Path, value any, within func(any) any) field.ErrorList {
	err := strictly(within(value), &InjectionConfiguration{})
	if err == nil {
		return nil
	}
	var found field.ErrorList
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			found = append(found, misfits(child(path, key), value[key], func(part any) any {
				return within(map[string]any{key: part})
			})...)
		}
	case []any:
		for i := range value {
			found = append(found, misfits(path.Index(i), value[i], func(part any) any {
				return within([]any{part})
			})...)
		}
	}
	if unknown := unknownField(path, within); unknown != nil {
		return field.ErrorList{unknown}
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

// unknownField asks whether the field is unknown whatever its value: null fits
// every field there is.
func unknownField(path *field.Path, within func(any) any) *field.Error {
	if path == nil {
		return nil
	}
	if err := strictly(within(nil), &InjectionConfiguration{}); err != nil {
		return field.Forbidden(path, "there is no such field")
	}
	return nil
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
		return fmt.Sprintf("expected %s, found %s", kindName(mismatch.Type.Kind().String()), mismatch.Value)
	}
	return strings.TrimSpace(err.Error())
}

// kindName says a Go kind in a YAML author's words.
func kindName(kind string) string {
	switch {
	case kind == "struct" || kind == "map":
		return "a mapping"
	case kind == "slice":
		return "a list"
	case kind == "bool":
		return "true or false"
	case strings.HasPrefix(kind, "int") || strings.HasPrefix(kind, "uint"):
		return "a whole number"
	default:
		return "a " + kind
	}
}
