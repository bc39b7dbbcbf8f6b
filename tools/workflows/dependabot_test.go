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

// Each Go module, and the workflows' actions, are updated.
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
		covered[update.Ecosystem] = append(covered[update.Ecosystem], append(update.Directories, update.Directory)...)
	}
	if !slices.Contains(covered["github-actions"], "/") {
		t.Error("no updates of actions")
	}
	modules := modulesOfTheRepository(t)
	if len(modules) < 10 {
		t.Errorf("found only the modules %q", modules)
	}
	for _, module := range modules {
		if !slices.ContainsFunc(covered["gomod"], func(pattern string) bool { matched, _ := path.Match(pattern, module); return matched }) {
			t.Errorf("no updates of the module in %s", module)
		}
	}
	for _, pattern := range covered["gomod"] {
		if pattern != "" && !slices.ContainsFunc(modules, func(module string) bool { matched, _ := path.Match(pattern, module); return matched }) {
			t.Errorf("no module is in %s", pattern)
		}
	}
}

// modulesOfTheRepository returns the directories with a go.mod, from the top of the repository.
func modulesOfTheRepository(t *testing.T) (modules []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("../.."), ".", func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return fs.SkipDir
		case entry.Name() == "go.mod":
			modules = append(modules, path.Join("/", path.Dir(file)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return modules
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
