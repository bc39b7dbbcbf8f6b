// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"
)

// stageChart copies the chart's source, with the images' registry and digests in its values. All files have the release's
// time, which `helm package` takes over.
func (r *release) stageChart(source, target string, digests map[string]string) error {
	if err := os.RemoveAll(target); err != nil { //nolint:gosec // an argument
		return err
	}
	if err := os.CopyFS(target, os.DirFS(source)); err != nil {
		return err
	}
	copied, err := os.OpenRoot(target)
	if err != nil {
		return err
	}
	defer func() { _ = copied.Close() }()
	content, err := copied.ReadFile("values.yaml")
	if err != nil {
		return err
	}
	pinned, err := pin(string(content), r.registry, digests)
	if err != nil {
		return fmt.Errorf("values.yaml: %w", err)
	}
	if err := copied.WriteFile("values.yaml", []byte(pinned), 0o644); err != nil {
		return err
	}
	return fs.WalkDir(copied.FS(), ".", func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return copied.Chtimes(file, r.created, r.created)
	})
}

// pin sets registry and digest of each image in values: a mapping with repository and digest. Comments stay.
func pin(values, registry string, digests map[string]string) (string, error) {
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(values), &document); err != nil {
		return "", err
	}
	lines := strings.Split(values, "\n")
	set := func(node *yaml.Node, value string) {
		line := &lines[node.Line-1]
		*line = (*line)[:node.Column-1] + value
	}
	images := 0
	var walk func(node *yaml.Node) error
	walk = func(node *yaml.Node) error {
		if repository, digest := value(node, "repository"), value(node, "digest"); repository != nil && digest != nil {
			name := path.Base(repository.Value)
			if digests[name] == "" {
				return fmt.Errorf("line %d: image %s is not in the release", repository.Line, repository.Value)
			}
			if digest.Tag == "!!null" {
				return fmt.Errorf("line %d: digest has no value to replace", digest.Line)
			}
			set(repository, registry+"/"+name)
			set(digest, digests[name])
			images++
		}
		for _, child := range node.Content {
			if err := walk(child); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(&document); err != nil {
		return "", err
	}
	if images == 0 {
		return "", fmt.Errorf("no image with repository and digest")
	}
	return strings.Join(lines, "\n"), nil
}

// value returns the value of a mapping's key, or nil.
func value(node *yaml.Node, key string) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}
