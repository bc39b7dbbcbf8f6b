// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gomodules.xyz/jsonpatch/v2"

	"github.com/istiod-agent/istiod-agent/cli/files"
)

// maxManifests limits all manifests together, in bytes: all objects of a large cluster.
const maxManifests = 32 << 20

// readAll reads the documents of files, directories and standard input.
func readAll(names []string, recursive bool, stdin io.Reader) ([]document, error) {
	var documents []document
	size := 0
	for _, name := range names {
		manifests, err := expand(name, recursive)
		if err != nil {
			return nil, err
		}
		for _, file := range manifests {
			text, source, err := files.ReadOrStdin(file, stdin, maxManifests)
			if err != nil {
				return nil, err
			}
			if size += len(text); size > maxManifests {
				return nil, fmt.Errorf("reading %s: expected at most %d bytes of manifests in total", source, maxManifests)
			}
			documents = append(documents, split(source, text)...)
		}
	}
	return documents, nil
}

// expand returns the manifests of a directory, sorted by name, or the name of
// a file itself.
func expand(name string, recursive bool) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		return []string{name}, err
	}
	var manifests []string
	err := filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != name && !recursive:
			return filepath.SkipDir
		case !entry.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			manifests = append(manifests, path)
		}
		return nil
	})
	if err == nil && len(manifests) == 0 {
		return nil, fmt.Errorf("%s: the directory has no .yaml, .yml or .json file", name)
	}
	return manifests, err
}

// split splits a stream before each line that starts a document and between JSON
// values. It keeps every byte.
func split(from string, text []byte) []document {
	var documents []document
	start := 0
	cut := func(end int) {
		if end > start {
			documents = append(documents, splitJSON(text[start:end])...)
			start = end
		}
	}
	for at := 0; at < len(text); {
		end := at + bytes.IndexByte(text[at:], '\n') + 1
		if end == at {
			end = len(text)
		}
		if isSeparator(text[at:end]) {
			cut(at)
		}
		at = end
	}
	cut(len(text))
	for i := range documents {
		documents[i].source = from
		if len(documents) > 1 {
			documents[i].source = fmt.Sprintf("%s, document %d", from, i+1)
		}
	}
	return documents
}

func isSeparator(line []byte) bool { return isMarker(line, "---") }

func isMarker(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || strings.IndexByte(" \t\r\n", rest[0]) >= 0)
}

// printers write all documents in the formats of --output.
var printers = map[string]func([]document, io.Writer) error{
	"yaml":  printYAML,
	"json":  printJSON,
	"patch": printPatches,
}

// printYAML writes unchanged documents byte for byte. A changed document is
// written as YAML, so JSON documents then need separators between them.
func printYAML(documents []document, out io.Writer) error {
	changed := slices.ContainsFunc(documents, func(d document) bool { return d.changed() })
	ended := true // with a line break
	for i, d := range documents {
		if d.followsJSON && !changed {
			if _, err := out.Write(d.text); err != nil {
				return err
			}
			ended = bytes.HasSuffix(d.text, []byte("\n"))
			continue
		}
		text, err := d.yaml()
		if err != nil {
			return err
		}
		between := ""
		if !ended {
			between = "\n"
		}
		if i > 0 && !isSeparator(firstLine(text)) {
			between += "---\n"
		}
		if _, err := out.Write(append([]byte(between), text...)); err != nil {
			return err
		}
		ended = bytes.HasSuffix(text, []byte("\n"))
	}
	return nil
}

// yaml returns the document's text, with the line breaks of the original.
func (d *document) yaml() ([]byte, error) {
	if !d.changed() {
		return d.text, nil
	}
	var text []byte
	var err error
	if d.value != nil { // JSON has no layout to keep
		text, err = writeYAML(d.after)
	} else {
		text, err = patchYAML(d.text, d.edits, d.after)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.source, err)
	}
	if isSeparator(firstLine(d.text)) {
		text = append([]byte("---\n"), text...)
	}
	if bytes.HasSuffix(firstLine(d.text), []byte("\r\n")) {
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	return text, nil
}

func firstLine(text []byte) []byte {
	if end := bytes.IndexByte(text, '\n'); end >= 0 {
		return text[:end+1]
	}
	return text
}

// printJSON writes one object, or a List of several, as kubectl does.
func printJSON(documents []document, out io.Writer) error {
	items := []json.RawMessage{}
	for _, d := range documents {
		raw := d.after
		if raw == nil {
			var err error
			if raw, err = d.asJSON(); err != nil {
				return err
			}
		}
		if string(bytes.TrimSpace(raw)) != "null" {
			items = append(items, raw)
		}
	}
	var whole any = struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}{"v1", "List", items}
	if len(items) == 1 {
		whole = items[0]
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "    ")
	return encoder.Encode(whole)
}

// printPatches writes one JSON patch per line for each istiod, including empty
// ones, so that the nth line belongs to the nth istiod on standard error.
func printPatches(documents []document, out io.Writer) error {
	for _, d := range documents {
		for _, operations := range d.operations {
			if operations == nil {
				operations = []jsonpatch.Operation{}
			}
			line, err := json.Marshal(operations)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(out, "%s\n", line); err != nil {
				return err
			}
		}
	}
	return nil
}
