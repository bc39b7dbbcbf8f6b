// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// writeSchema writes the JSON schema by which Helm checks what people set.
func writeSchema(file string, values []value) error {
	schema, err := groupSchema(values)
	if err != nil {
		return err
	}
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	// What a parent chart gives a subchart besides its values: whether it is enabled
	// (by the dependency's condition), and all that the parent calls global.
	properties := schema["properties"].(map[string]any)
	properties["enabled"] = map[string]any{"type": "boolean", "description": "For a condition of a chart that has this one as a dependency."}
	global, ok := properties["global"].(map[string]any)
	if !ok {
		global = map[string]any{"type": "object"}
	}
	delete(global, "additionalProperties")
	delete(global, "required")
	properties["global"] = global
	schema["required"] = slices.DeleteFunc(schema["required"].([]string), func(name string) bool { return name == "global" })

	content, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(content, '\n'), 0o644)
}

// groupSchema allows the group's own values only. It requires those that have a
// default which the templates count on, so that a null, by which Helm removes a
// default, is answered with the value's name.
func groupSchema(values []value) (map[string]any, error) {
	properties := map[string]any{}
	required := []string{}
	for _, v := range values {
		schema, err := v.jsonSchema()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v.path, err)
		}
		properties[v.key] = schema
		if v.isGroup() || v.node.Kind == yaml.ScalarNode && v.node.Tag != "!!null" && v.node.Value != "" {
			required = append(required, v.key)
		}
	}
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"properties":           properties,
		"required":             required,
	}, nil
}

func (v *value) jsonSchema() (map[string]any, error) {
	schema := map[string]any{}
	if v.isGroup() {
		var err error
		if schema, err = groupSchema(v.group); err != nil {
			return nil, err
		}
	} else if jsonType, ok := jsonTypes[v.node.Tag]; ok {
		schema["type"] = jsonType
	}
	if v.description != "" {
		schema["description"] = v.description
	}
	maps.Copy(schema, v.schema)
	if schema["type"] == nil {
		return nil, fmt.Errorf("its type does not follow from its default: add @schema {type: …}")
	}
	return schema, nil
}

var jsonTypes = map[string]string{
	"!!bool": "boolean",
	"!!int":  "integer",
	"!!map":  "object",
	"!!seq":  "array",
	"!!str":  "string",
}
