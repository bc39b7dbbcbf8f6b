// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// YAML shares values by aliases and merge keys (`<<`), while an edit must change
// one place only. The values on an edit's path become copies; all other sharing
// stays as written.

// ownChild returns the child of a mapping or list at a step, as a value that is
// not shared; nil without one.
func ownChild(document, parent *yaml.Node, step string) *yaml.Node {
	at := -1
	switch parent.Kind {
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(parent.Content) {
			at = i
		}
	case yaml.MappingNode:
		key := unescape(step)
		if i := keyIndex(parent, key); i >= 0 {
			at = i + 1
		} else if value := merged(parent, key); value != nil {
			parent.Content = append(parent.Content, keyNode(key), detached(value))
			at = len(parent.Content) - 1
		}
	}
	if at < 0 {
		return nil
	}
	child := parent.Content[at]
	switch {
	case child.Kind == yaml.AliasNode:
		parent.Content[at] = detached(child)
	case child.Anchor != "":
		detachAliases(document, child)
	}
	return parent.Content[at]
}

// merged returns the value of a key from a mapping's merge keys; nil without one.
func merged(mapping *yaml.Node, key string) *yaml.Node {
	for _, source := range mergeSources(mapping, map[*yaml.Node]bool{}) {
		if i := keyIndex(source, key); i >= 0 {
			return source.Content[i+1]
		}
	}
	return nil
}

// mergeSources returns the mappings that a mapping merges, transitively, each
// once and by precedence: the first of a list, the last of several merge keys.
func mergeSources(mapping *yaml.Node, seen map[*yaml.Node]bool) []*yaml.Node {
	var sources []*yaml.Node
	for i := len(mapping.Content) - 2; i >= 0; i -= 2 {
		if mapping.Kind != yaml.MappingNode || !isMerge(mapping.Content[i]) {
			continue
		}
		entries := []*yaml.Node{target(mapping.Content[i+1])}
		if entries[0].Kind == yaml.SequenceNode {
			entries = entries[0].Content
		}
		for _, entry := range entries {
			if source := target(entry); !seen[source] {
				seen[source] = true
				sources = append(append(sources, source), mergeSources(source, seen)...)
			}
		}
	}
	return sources
}

// expandMerges replaces the merge keys of a mapping by their values.
func expandMerges(mapping *yaml.Node) {
	sources := mergeSources(mapping, map[*yaml.Node]bool{})
	for i := len(mapping.Content) - 2; i >= 0; i -= 2 {
		if isMerge(mapping.Content[i]) {
			mapping.Content = slices.Delete(mapping.Content, i, i+2)
		}
	}
	for _, source := range sources {
		for i := 0; i+1 < len(source.Content); i += 2 {
			if key := source.Content[i]; !isMerge(key) && keyIndex(mapping, key.Value) < 0 {
				mapping.Content = append(mapping.Content, detached(key), detached(source.Content[i+1]))
			}
		}
	}
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" }

// target returns the node of an alias, or the node itself.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// detached copies a value without its anchors. Aliases in it stay.
func detached(n *yaml.Node) *yaml.Node {
	value := *target(n)
	value.Anchor = ""
	value.Content = slices.Clone(value.Content)
	for i, c := range value.Content {
		if c.Kind != yaml.AliasNode {
			value.Content[i] = detached(c)
		}
	}
	return &value
}

// detachAliases replaces each alias of a node by a copy, and removes the anchor.
func detachAliases(n, anchored *yaml.Node) {
	for i, c := range n.Content {
		if c.Kind == yaml.AliasNode && c.Alias == anchored {
			n.Content[i] = detached(c)
			anchored.Anchor = ""
			continue
		}
		detachAliases(c, anchored)
	}
}

// plainMerges keeps the encoder from writing a tag before each merge key.
func plainMerges(n *yaml.Node) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && isMerge(c) && c.Style&yaml.TaggedStyle == 0 {
			c.Tag = ""
		}
		plainMerges(c)
	}
}

// uniqueKeys refuses a mapping with duplicate keys. A key may override a merged
// key.
func uniqueKeys(text []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return err
	}
	return uniqueKeysBelow(&document)
}

func uniqueKeysBelow(n *yaml.Node) error {
	seen := map[string]bool{}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Kind == yaml.ScalarNode && !isMerge(c) {
			if seen[c.Value] {
				return fmt.Errorf("line %d: key %q already set in map", c.Line, c.Value)
			}
			seen[c.Value] = true
		}
		if err := uniqueKeysBelow(c); err != nil {
			return err
		}
	}
	return nil
}
