// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"
)

// program is a Go program, with all that it links.
type program struct {
	file    string // where it is, relative to the root of its image or archive
	sha256  string
	path    string // of its main package
	modules []module
}

// module is a Go module that a program links, or Go's standard library. The module's sum is that of go.sum.
type module struct{ path, version, sum string }

// readProgram reads what Go's linker has written into a program, as `go version -m` does. The file must be for the platform.
// version is that of this repository's modules.
func readProgram(file string, content []byte, system, architecture, version string) (*program, error) {
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s: expected a Go program: %w", file, err)
	}
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	if settings["GOOS"] != system || settings["GOARCH"] != architecture {
		return nil, fmt.Errorf("%s is for %s/%s; expected %s/%s", file, settings["GOOS"], settings["GOARCH"], system, architecture)
	}
	sum := sha256.Sum256(content)
	return &program{file: file, sha256: hex.EncodeToString(sum[:]), path: info.Path, modules: modulesOf(info, version)}, nil
}

func modulesOf(info *debug.BuildInfo, version string) []module {
	modules := []module{{path: "stdlib", version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, dependency := range info.Deps {
		if replaced := dependency.Replace; replaced != nil && strings.HasPrefix(replaced.Path, ".") { // another module of this repository
			modules = append(modules, module{path: dependency.Path, version: version})
			continue
		}
		linked := cmp.Or(dependency.Replace, dependency)
		modules = append(modules, module{linked.Path, linked.Version, linked.Sum})
	}
	return modules
}
