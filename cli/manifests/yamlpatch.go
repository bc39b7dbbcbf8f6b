// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	goyaml "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
	"gomodules.xyz/jsonpatch/v2"
	kyaml "sigs.k8s.io/yaml"
)

// patchYAML applies operations to a YAML document and keeps its comments, anchors,
// merge keys, order of keys and style of values. after is the changed document as
// JSON; it replaces the YAML where the edited YAML is not equivalent.
//
// Measured with the istiod of Istio 1.31's chart: an injection changes 328 lines
// here, and 407 by way of JSON (sigs.k8s.io/yaml), which drops comments and anchors.
func patchYAML(text []byte, operations []jsonpatch.Operation, after []byte) ([]byte, error) {
	if edited, err := editNodes(text, operations); err == nil && equivalent(edited, after) {
		return edited, nil
	}
	return writeYAML(after)
}

// writeYAML writes JSON as YAML. It parses JSON, since YAML lacks some of JSON's
// escapes.
func writeYAML(object []byte) ([]byte, error) {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	text, err := goyaml.Marshal(value)
	if err != nil {
		return nil, err
	}
	if !equivalent(text, object) {
		return nil, errors.New("it contains a value that YAML cannot represent; use -o json")
	}
	return text, nil
}

func equivalent(text, desired []byte) bool {
	raw, err := kyaml.YAMLToJSON(text)
	if err != nil {
		return false
	}
	var a, b any
	return json.Unmarshal(raw, &a) == nil && json.Unmarshal(desired, &b) == nil && reflect.DeepEqual(a, b)
}

func editNodes(text []byte, operations []jsonpatch.Operation) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if document.Content[0].Style&yaml.FlowStyle != 0 {
		return nil, errors.New("flow style has no layout to keep")
	}
	for _, operation := range operations {
		if err := edit(&document, operation); err != nil {
			return nil, err
		}
	}
	plainMerges(&document)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if !indentsLists(text) {
		encoder.CompactSeqIndent()
	}
	if err := encoder.Encode(&document); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

// indentsLists reports whether most lists of the text are indented below their keys.
func indentsLists(text []byte) bool {
	indent := func(line []byte) int { return len(line) - len(bytes.TrimLeft(line, " ")) }
	deeper, flush, key := 0, 0, -1
	for line := range bytes.Lines(text) {
		if key >= 0 && bytes.HasPrefix(bytes.TrimLeft(line, " "), []byte("- ")) {
			if indent(line) > key {
				deeper++
			} else {
				flush++
			}
		}
		key = -1
		if bytes.HasSuffix(bytes.TrimSpace(line), []byte(":")) {
			key = len(line) - len(bytes.TrimLeft(line, "- "))
		}
	}
	return deeper > flush
}

// edit applies one operation (RFC 6902: add, replace or remove).
func edit(document *yaml.Node, operation jsonpatch.Operation) error {
	steps := strings.Split(operation.Path, "/")[1:]
	parent := document.Content[0]
	for _, step := range steps[:len(steps)-1] {
		if parent = ownChild(document, parent, step); parent == nil {
			return fmt.Errorf("no %s in %s", step, operation.Path)
		}
		parent.Style &^= yaml.FlowStyle // additions would be on one line
	}
	last := unescape(steps[len(steps)-1])

	var value *yaml.Node
	if operation.Operation != "remove" {
		var err error
		if value, err = node(operation.Value); err != nil {
			return err
		}
	}
	switch parent.Kind {
	case yaml.MappingNode:
		return editMapping(parent, last, value)
	case yaml.SequenceNode:
		return editSequence(parent, last, operation.Operation, value)
	default:
		return fmt.Errorf("%s is neither in a mapping nor in a list", operation.Path)
	}
}

func editMapping(parent *yaml.Node, key string, value *yaml.Node) error {
	if value == nil && merged(parent, key) != nil {
		expandMerges(parent) // a merged key cannot be removed
	}
	at := keyIndex(parent, key)
	switch {
	case at < 0 && value == nil:
		return fmt.Errorf("no %s to remove", key)
	case at < 0:
		parent.Content = append(parent.Content, keyNode(key), value)
	case value == nil:
		parent.Content = slices.Delete(parent.Content, at, at+2)
	default:
		parent.Content[at+1] = value
	}
	return nil
}

func editSequence(parent *yaml.Node, step, operation string, value *yaml.Node) error {
	if step == "-" {
		parent.Content = append(parent.Content, value)
		return nil
	}
	at, err := strconv.Atoi(step)
	if err != nil || at < 0 || at > len(parent.Content) || (at == len(parent.Content) && operation != "add") {
		return fmt.Errorf("no entry %s", step)
	}
	switch operation {
	case "add":
		parent.Content = slices.Insert(parent.Content, at, value)
	case "remove":
		parent.Content = slices.Delete(parent.Content, at, at+1)
	default:
		value.HeadComment, value.FootComment = parent.Content[at].HeadComment, parent.Content[at].FootComment
		parent.Content[at] = value
	}
	return nil
}

func keyNode(key string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}
}

func keyIndex(mapping *yaml.Node, key string) int {
	if mapping.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(mapping.Content); i += 2 {
			if name := mapping.Content[i]; name.Kind == yaml.ScalarNode && name.Value == key {
				return i
			}
		}
	}
	return -1
}

// node returns an operation's value as YAML, with the fields in the order of the
// API's types.
func node(value any) (*yaml.Node, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return nil, err
	}
	blockStyle(document.Content[0])
	return document.Content[0], nil
}

// blockStyle removes JSON's braces and quotes; the encoder quotes where necessary.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// unescape a step of a JSON pointer (RFC 6901).
func unescape(step string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
}
