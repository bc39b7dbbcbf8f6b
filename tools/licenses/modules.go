// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// module is a Go module, or Go's standard library, with the packages of it that a program links.
type module struct {
	path     string
	version  string   // empty for the program's own module
	packages []string // directories below files, with slashes; "." for the module's root
	files    fs.FS
}

func (m *module) String() string { return strings.TrimSpace(m.path + " " + m.version) }

// listedPackage is a package as `go list -json` prints it.
type listedPackage struct {
	ImportPath string
	Dir        string
	Standard   bool
	Module     *listedModule
}

type listedModule struct {
	Path    string
	Version string
	Dir     string
	Replace *listedModule
}

// linkedModules returns the modules of the packages that a program links, sorted by their paths.
//
// The program holds the list of its modules; root is the directory of its own module, where Go is asked for the packages,
// as a package can have a licence of its own.
func linkedModules(ctx context.Context, root string, program *buildinfo.BuildInfo) ([]*module, error) {
	environment := append(os.Environ(), "CGO_ENABLED=0")
	var tags string
	for _, setting := range program.Settings {
		switch setting.Key {
		case "GOOS", "GOARCH":
			environment = append(environment, setting.Key+"="+setting.Value)
		case "-tags":
			tags = setting.Value
		}
	}
	goCommand := func(args ...string) ([]byte, error) {
		command := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the tags and the package are a build's of this repository
		command.Dir, command.Env = root, environment
		output, err := command.Output()
		if exit, failed := errors.AsType[*exec.ExitError](err); failed {
			return nil, fmt.Errorf("go %s: %w: %s", args[0], err, bytes.TrimSpace(exit.Stderr))
		}
		return output, err
	}
	goroot, err := goCommand("env", "GOROOT")
	if err != nil {
		return nil, err
	}
	packages, err := goCommand("list", "-deps", "-tags="+tags, "-json=ImportPath,Dir,Standard,Module", program.Path)
	if err != nil {
		return nil, err
	}
	standard := &listedModule{Path: "Go", Version: strings.TrimPrefix(program.GoVersion, "go"), Dir: strings.TrimSpace(string(goroot))}
	modules, err := modulesOf(bytes.NewReader(packages), standard)
	if err != nil {
		return nil, err
	}
	return modules, compare(modules, program.Deps)
}

// compare returns an error when a module that the program links is not among those that Go has listed.
func compare(listed []*module, linked []*debug.Module) error {
	for _, dependency := range linked {
		origin := cmp.Or(dependency.Replace, dependency)
		if isDirectory(origin.Path) { // another module of this repository
			origin = &debug.Module{Path: dependency.Path}
		}
		if !slices.ContainsFunc(listed, func(m *module) bool { return m.path == origin.Path && m.version == origin.Version }) {
			return fmt.Errorf("the program links %s %s, which its source does not import: build it again", origin.Path, origin.Version)
		}
	}
	return nil
}

// isDirectory reports whether the path of a replacement is a directory (https://go.dev/ref/mod#go-mod-file-replace).
func isDirectory(path string) bool {
	return strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../")
}

// modulesOf groups the packages that `go list -json` printed by their modules; standard is that of Go's own.
func modulesOf(packages io.Reader, standard *listedModule) ([]*module, error) {
	modules := map[string]*module{} // by the module's directory
	for decoder := json.NewDecoder(packages); ; {
		var listed listedPackage
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("reading what go list printed: %w", err)
		}
		source := listed.Module
		if listed.Standard {
			source = standard
		}
		if source == nil || source.Dir == "" {
			return nil, fmt.Errorf("package %s belongs to no module", listed.ImportPath)
		}
		relative, err := filepath.Rel(source.Dir, listed.Dir)
		if err != nil || !filepath.IsLocal(relative) {
			return nil, fmt.Errorf("package %s is at %s, outside its module", listed.ImportPath, listed.Dir)
		}
		known := modules[source.Dir]
		if known == nil {
			origin := cmp.Or(source.Replace, source)
			if isDirectory(origin.Path) {
				origin = &listedModule{Path: source.Path}
			}
			known = &module{path: origin.Path, version: origin.Version, files: os.DirFS(source.Dir)}
			modules[source.Dir] = known
		}
		known.packages = append(known.packages, filepath.ToSlash(relative))
	}
	return slices.SortedFunc(maps.Values(modules), func(a, b *module) int {
		return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.version, b.version))
	}), nil
}
