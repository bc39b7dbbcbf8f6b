// SPDX-License-Identifier: Apache-2.0

package workflows_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Each Go module, each npm package and the workflows' actions are updated, in groups.
func TestUpdatesCoverEveryModule(t *testing.T) {
	content, err := os.ReadFile("../../.github/dependabot.yml")
	if err != nil {
		t.Fatal(err)
	}
	var configuration struct {
		Version int
		Updates []struct {
			Ecosystem   string `yaml:"package-ecosystem"`
			Directory   string
			Directories []string
			Schedule    struct{ Interval string }
			Cooldown    map[string]int
			Groups      map[string]struct{ Patterns []string }
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&configuration); err != nil {
		t.Fatal(err)
	}
	if configuration.Version != 2 {
		t.Errorf("version %d", configuration.Version)
	}
	covered := map[string][]string{} // by ecosystem
	for _, update := range configuration.Updates {
		if update.Schedule.Interval == "" {
			t.Errorf("%s of %q is never updated", update.Ecosystem, update.Directories)
		}
		if len(update.Groups) == 0 {
			t.Errorf("%s of %q has no group: each version would be a pull request", update.Ecosystem, update.Directories)
		}
		covered[update.Ecosystem] = append(covered[update.Ecosystem], append(update.Directories, update.Directory)...)
	}
	if !slices.Contains(covered["github-actions"], "/") {
		t.Error("no updates of actions")
	}
	for ecosystem, kind := range map[string]struct {
		file    string
		atLeast int
	}{"gomod": {"go.mod", 10}, "npm": {"package.json", 1}} {
		directories := directoriesWith(t, kind.file)
		if len(directories) < kind.atLeast {
			t.Errorf("found %s only in %q", kind.file, directories)
		}
		for _, directory := range directories {
			if !slices.ContainsFunc(covered[ecosystem], func(pattern string) bool { return matches(pattern, directory) }) {
				t.Errorf("no updates of %s in %s", kind.file, directory)
			}
		}
		for _, pattern := range covered[ecosystem] {
			if pattern != "" && !slices.ContainsFunc(directories, func(directory string) bool { return matches(pattern, directory) }) {
				t.Errorf("no %s is in %s", kind.file, pattern)
			}
		}
	}
}

func matches(pattern, directory string) bool {
	matched, err := path.Match(pattern, directory)
	return matched && err == nil
}

// directoriesWith returns the directories with a file of this name, from the top of the repository.
func directoriesWith(t *testing.T, name string) (directories []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("../.."), ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.Name() == name:
			directories = append(directories, path.Join("/", path.Dir(file)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return directories
}

// A change of any file has an owner, who is of the organisation of the images.
func TestCodeOwners(t *testing.T) {
	owners, err := os.ReadFile("../../.github/CODEOWNERS")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	organisation := regexp.MustCompile(`(?m)^REGISTRY \?= ghcr\.io/(\S+)$`).FindSubmatch(makefile)
	if organisation == nil {
		t.Fatal("the Makefile has no REGISTRY on ghcr.io")
	}
	everything := false
	for line := range strings.Lines(string(owners)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		everything = everything || fields[0] == "*"
		if len(fields) == 1 {
			t.Errorf("%s has no owner", fields[0])
		}
		for _, owner := range fields[1:] {
			if !strings.HasPrefix(owner, "@"+string(organisation[1])+"/") {
				t.Errorf("%s has the owner %s, who is no team of %s", fields[0], owner, organisation[1])
			}
		}
	}
	if !everything {
		t.Error("no owner of *")
	}
}

// The forms for issues are what GitHub accepts: a name, a description, and elements with labels.
func TestIssueForms(t *testing.T) {
	forms, err := filepath.Glob("../../.github/ISSUE_TEMPLATE/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, file := range forms {
		if filepath.Base(file) == "config.yml" {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var form struct {
			Name, Description string
			Labels            []string
			Body              []struct {
				Type, ID   string
				Attributes struct{ Label, Description, Value, Render, Placeholder string }
				Validation map[string]bool `yaml:"validations"`
			}
		}
		decoder := yaml.NewDecoder(strings.NewReader(string(content)))
		decoder.KnownFields(true)
		if err := decoder.Decode(&form); err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		ids := map[string]bool{}
		for _, element := range form.Body {
			switch {
			case element.Type == "markdown" && element.Attributes.Value != "":
			case (element.Type == "textarea" || element.Type == "input") && element.Attributes.Label != "" && element.ID != "" && !ids[element.ID]:
				ids[element.ID] = true
			default:
				t.Errorf("%s has the element %+v", file, element)
			}
		}
		if form.Name == "" || form.Description == "" || len(ids) == 0 {
			t.Errorf("%s has no name, description or field", file)
		}
		checked++
	}
	if checked < 2 {
		t.Errorf("%d forms were found", checked)
	}
}

// A workflow runs targets and scripts that exist.
func TestWorkflowsRunWhatExists(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../.github/workflows/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^\s*(?:- )?run: make ([^#\n]*)`).FindAllStringSubmatch(string(content), -1) {
			for target := range strings.FieldsSeq(match[1]) {
				commands++
				if !strings.Contains(target, "=") && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`:`).Match(makefile) {
					t.Errorf("%s: make has no target %s", filepath.Base(file), target)
				}
			}
		}
		for _, script := range regexp.MustCompile(`hack/[\w-]+\.sh`).FindAllString(string(content), -1) {
			commands++
			info, err := os.Stat("../../" + script)
			if err != nil || info.Mode()&0o111 == 0 {
				t.Errorf("%s: %s is missing or not executable", filepath.Base(file), script)
			}
		}
	}
	if commands < 10 {
		t.Errorf("only %d commands were found", commands)
	}
}
