// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// maxText is far above the longest licence in use; a larger file is none.
const maxText = 1 << 20

var (
	// licenceFile matches the names of the files that hold a licence.
	licenceFile = regexp.MustCompile(`(?i)^(license|licence|copying|unlicense)([.-].*)?$`)
	// noticeFile matches the names of the files that a licence requires to be passed on with it.
	noticeFile = regexp.MustCompile(`(?i)^(notice|patents|copyright)([.-].*)?$`)
)

// text is the content of licence files, and the names of all files that have it.
type text struct {
	content string
	sources []string // as "MODULE VERSION: FILE"
}

// licenceTexts returns the texts of the licence files of all modules, each text once, in the order of the modules.
// Those are the files beside each linked package and above it, up to the module's root: code that a module has copied
// from another project has its own licence in its own directory.
func licenceTexts(modules []*module) ([]text, error) {
	var texts []text
	index := map[string]int{} // of a content in texts
	var missing []string
	for _, m := range modules {
		files, err := m.licenceFiles()
		if errors.Is(err, errNoLicence) {
			missing = append(missing, err.Error())
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
		for _, name := range files {
			content, err := readText(m.files, name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m, err)
			}
			at, found := index[content]
			if !found {
				at = len(texts)
				index[content] = at
				texts = append(texts, text{content: content})
			}
			texts[at].sources = append(texts[at].sources, m.String()+": "+name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w: replace the module, or ask its authors for a licence:\n%s", errNoLicence, strings.Join(missing, "\n"))
	}
	return texts, nil
}

var errNoLicence = errors.New("no licence file")

// licenceFiles returns the sorted names of the module's licence files. Each package must have a licence at or above its directory.
func (m *module) licenceFiles() ([]string, error) {
	found := map[string]bool{}
	directories := map[string]directory{}
	for _, name := range m.packages {
		licensed := false
		for dir := name; ; dir = path.Dir(dir) {
			d, known := directories[dir]
			if !known {
				var err error
				if d, err = readDirectory(m.files, dir); err != nil {
					return nil, err
				}
				directories[dir] = d
				for _, file := range d.files {
					found[file] = true
				}
			}
			licensed = licensed || d.licensed
			if dir == "." {
				break
			}
		}
		if !licensed {
			return nil, fmt.Errorf("%s: %w for its package %s", m, errNoLicence, name)
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// directory is the licence files of one directory.
type directory struct {
	files    []string
	licensed bool // one of them is a licence, not only a notice
}

func readDirectory(files fs.FS, dir string) (directory, error) {
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return directory{}, err
	}
	var d directory
	for _, entry := range entries {
		licence := licenceFile.MatchString(entry.Name())
		if entry.IsDir() || path.Ext(entry.Name()) == ".go" || !licence && !noticeFile.MatchString(entry.Name()) {
			continue
		}
		d.files = append(d.files, path.Join(dir, entry.Name()))
		d.licensed = d.licensed || licence
	}
	return d, nil
}

// readText reads a licence file: regular, of bounded size, and not empty. Line ends become those of Unix.
func readText(files fs.FS, name string) (string, error) {
	file, err := files.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	if stat, err := file.Stat(); err != nil || !stat.Mode().IsRegular() {
		return "", errors.Join(fmt.Errorf("%s is not a regular file", name), err)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxText+1))
	if err != nil {
		return "", err
	}
	content = bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n"))
	trimmed := strings.TrimRight(strings.Trim(string(content), "\n"), " \t\n")
	if trimmed == "" || len(content) > maxText {
		return "", fmt.Errorf("%s is empty or longer than %d bytes: it is no licence", name, maxText)
	}
	return trimmed + "\n", nil
}
