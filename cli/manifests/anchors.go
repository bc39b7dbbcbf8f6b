// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// An edit must change one place only, while YAML shares values: by an alias,
// and by a merge key (`<<`). What an edit reaches gets a value of its own, and
// all other sharing stays as written.

// ownChild returns the child that a mapping or list has under a step, as a
// value that nothing else in the document shares; nil where there is none.
func ownChild(document, parent *yaml.Node, step string) *yaml.Node {
	at := -1
	switch parent.Kind {
	case yaml.SequenceNode:
		at = entryIndex(parent, step)
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

// merged returns the value that a mapping gets for a key by its merge keys; nil
// where there is none.
func merged(mapping *yaml.Node, key string) *yaml.Node {
	for _, source := range mergeSources(mapping, map[*yaml.Node]bool{}) {
		if i := keyIndex(source, key); i >= 0 {
			return source.Content[i+1]
		}
	}
	return nil
}

// mergeSources returns the mappings that a mapping merges, and those that they
// merge, each once and the one that counts most first: the first of a list, and
// the last of several merge keys.
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

// expandMerges replaces the merge keys of a mapping by what they merge.
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

// target is what an alias stands for, or the node itself.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// detached copies a value without its anchors. Aliases within it stay.
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

// detachAliases gives each alias of a node its own copy; the anchor then has no
// use.
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

// uniqueKeys refuses text in which a mapping has a key twice. A key may
// override one that a merge key brings.
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
