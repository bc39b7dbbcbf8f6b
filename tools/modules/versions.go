// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

// alone are the folders of modules that share little: the tools of developers, and Vault as it is shipped.
var alone = []string{"tools", "e2e/binaries/kind", "e2e/binaries/vault-whole"}

// exceptions are the paths whose versions may differ, with the reason.
var exceptions = map[string]string{
	"google.golang.org/api": "CoreDNS's version needs a pre-release of cloud.google.com/go/auth, which the product would then link",
}

// versions are those of a go.mod file by path, without what it replaces.
type versions map[string]string

// read returns the versions of each go.mod file below root, by its folder.
func read(root string) (map[string]versions, error) {
	modules := map[string]versions{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && (entry.Name() == "node_modules" || path != root && strings.HasPrefix(entry.Name(), ".")):
			return filepath.SkipDir
		case entry.Name() != "go.mod":
			return nil
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		if slices.ContainsFunc(alone, func(other string) bool { return within(folder, other) }) {
			return nil
		}
		content, err := os.ReadFile(path) //nolint:gosec // the repository's own files
		if err != nil {
			return err
		}
		file, err := modfile.Parse(path, content, nil)
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		modules[folder] = versionsOf(file)
		return nil
	})
	return modules, err
}

func within(folder, other string) bool {
	return folder == other || strings.HasPrefix(folder, other+"/")
}

func versionsOf(file *modfile.File) versions {
	found := versions{}
	for _, require := range file.Require {
		found[require.Mod.Path] = require.Mod.Version
	}
	for _, replace := range file.Replace {
		delete(found, replace.Old.Path)
	}
	return found
}

// raise is a version to change.
type raise struct{ path, from, to string }

// lower returns, by folder, the versions that are lower than another module's. A pre-release is not spread to a module that
// is content with a release.
func lower(modules map[string]versions) map[string][]raise {
	highest := map[string]string{}
	for _, module := range modules {
		for path, version := range module {
			if semver.Compare(version, highest[path]) > 0 {
				highest[path] = version
			}
		}
	}
	raises := map[string][]raise{}
	for folder, module := range modules {
		for _, path := range slices.Sorted(maps.Keys(module)) {
			from, to := module[path], highest[path]
			if _, excepted := exceptions[path]; excepted || semver.Compare(from, to) >= 0 || prerelease(to) && !prerelease(from) {
				continue
			}
			raises[folder] = append(raises[folder], raise{path, from, to})
		}
	}
	return raises
}

func prerelease(version string) bool { return semver.Prerelease(version) != "" }
