// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// value is one documented value of the chart. A mapping written in block style
// is a group of values; anything else, a mapping in flow style included, is one
// value.
type value struct {
	key, path   string
	description string
	// defaultText is what the table shows as the default, if not the default itself.
	defaultText string
	// schema holds JSON schema keywords beyond those that follow from the default.
	schema map[string]any
	node   *yaml.Node
	group  []value
}

func (v *value) isGroup() bool {
	return v.node.Kind == yaml.MappingNode && v.node.Style&yaml.FlowStyle == 0
}

// decoded is the default as plain YAML values.
func (v *value) decoded() (any, error) {
	var decoded any
	err := v.node.Decode(&decoded)
	return decoded, err
}

func readValues(file string) ([]value, error) {
	content, err := os.ReadFile(file) //nolint:gosec // a file of the repository
	if err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s: expected a mapping", file)
	}
	values, err := readGroup(document.Content[0], "")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return values, nil
}

func readGroup(mapping *yaml.Node, prefix string) ([]value, error) {
	var values []value
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		key, node := mapping.Content[i], mapping.Content[i+1]
		v := value{key: key.Value, path: prefix + key.Value, node: node}
		if err := v.readComment(key.HeadComment); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", key.Line, v.path, err)
		}
		if v.isGroup() {
			group, err := readGroup(node, v.path+".")
			if err != nil {
				return nil, err
			}
			v.group = group
		} else if v.description == "" {
			return nil, fmt.Errorf("line %d: %s has no comment that describes it", key.Line, v.path)
		}
		values = append(values, v)
	}
	return values, nil
}

func (v *value) readComment(comment string) error {
	// A blank line parts the value's comment from one that stands by itself.
	if i := strings.LastIndex(comment, "\n\n"); i >= 0 {
		comment = comment[i+2:]
	}
	var description []string
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(strings.TrimPrefix(line, "#"))
		switch text, isDefault := strings.CutPrefix(line, "@default "); {
		case isDefault:
			v.defaultText = text
		case strings.HasPrefix(line, "@schema "):
			if err := yaml.Unmarshal([]byte(strings.TrimPrefix(line, "@schema ")), &v.schema); err != nil {
				return err
			}
		case strings.HasPrefix(line, "@"):
			return fmt.Errorf("%q is neither @schema nor @default", line)
		default:
			description = append(description, line)
		}
	}
	v.description = strings.Join(description, " ")
	return nil
}
