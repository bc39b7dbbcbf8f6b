// SPDX-License-Identifier: Apache-2.0

// Package workflows_test holds the CI's workflows to what keeps a release safe: an action cannot change under its name, the
// job that publishes runs nothing that it or a pull request has built, and every other job can only read.
package workflows_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflow is the part of a workflow's file that the rules below are about.
type workflow struct {
	On          yaml.Node         `yaml:"on"`
	Permissions map[string]string `yaml:"permissions"`
	Env         map[string]string `yaml:"env"`
	Jobs        map[string]job    `yaml:"jobs"`
}

type job struct {
	Needs       []string          `yaml:"needs"`
	Permissions map[string]string `yaml:"permissions"`
	Timeout     int               `yaml:"timeout-minutes"`
	Env         map[string]string `yaml:"env"`
	Uses        string            `yaml:"uses"`
	Steps       []step            `yaml:"steps"`
}

type step struct {
	Uses string            `yaml:"uses"`
	With map[string]string `yaml:"with"`
	Env  map[string]string `yaml:"env"`
	Run  string            `yaml:"run"`
}

var (
	pinned = regexp.MustCompile(`(?m)^\s*(?:- )?uses: ([\w.-]+/[\w./-]+@[0-9a-f]{40}) # v\d+\.\d+\.\d+$`)
	used   = regexp.MustCompile(`(?m)^\s*(?:- )?['"]?uses['"]?\s*:.*$`)
	// builder matches the commands that compile, test or generate.
	builder = regexp.MustCompile(`\b(make|go|docker build|hack/build\.sh)\b`)
	// credential matches the expressions that give a token or a secret.
	credential = regexp.MustCompile(`\$\{\{.*(github\.token|secrets).*}}`)
	// fromOutside are the events that run a workflow with this repository's rights on a change from a fork.
	fromOutside = regexp.MustCompile(`pull_request_target|workflow_run|issue_comment`)
	// onTag matches the event of a release.
	onTag = regexp.MustCompile(`\btags:`)
)

// faults returns the rules that a workflow breaks. A release is a workflow with a job that can write.
func faults(content []byte) []string {
	var found []string
	fault := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	var w workflow
	if err := yaml.Unmarshal(content, &w); err != nil {
		return []string{err.Error()}
	}

	if w.Permissions == nil || len(w.Permissions) > 0 {
		fault("permissions must be {}: each job names its own")
	}
	if events, err := yaml.Marshal(&w.On); err != nil || fromOutside.Match(events) {
		fault("it runs on a fork's change with this repository's rights")
	}
	if strings.Contains(string(content), "github.event.") {
		fault("it reads a field of its event, which differs by event, and may be another's text")
	}
	for _, line := range used.FindAllString(string(content), -1) {
		if !pinned.MatchString(line) {
			fault("%q is not pinned as OWNER/NAME@COMMIT # vX.Y.Z", strings.TrimSpace(line))
		}
	}
	releases := false
	for _, j := range w.Jobs {
		releases = releases || j.writes()
	}
	for _, name := range slices.Sorted(maps.Keys(w.Jobs)) {
		w.checkOrder(name, func(format string, args ...any) { fault("job "+name+": "+format, args...) })
		w.Jobs[name].check(releases, func(format string, args ...any) { fault("job "+name+": "+format, args...) })
	}
	if slices.ContainsFunc(slices.Collect(maps.Values(w.Env)), credential.MatchString) {
		fault("every job gets a credential")
	}
	return found
}

// checkOrder requires that a job which can write runs after all that can only read. On a tag, the first job of all compares the
// tag with the sources.
func (w workflow) checkOrder(name string, fault func(format string, args ...any)) {
	before := w.before(name)
	if w.Jobs[name].writes() {
		for _, other := range slices.Sorted(maps.Keys(w.Jobs)) {
			if !w.Jobs[other].writes() && !before[other] {
				fault("it can write, and does not wait for the job %s", other)
			}
		}
	}
	if events, err := yaml.Marshal(&w.On); err != nil || !onTag.Match(events) || len(before) > 0 {
		return
	}
	for _, s := range w.Jobs[name].Steps {
		if strings.HasPrefix(s.Run, "hack/release-check.sh ") {
			return
		}
	}
	fault("it runs before hack/release-check.sh has compared the tag with the sources")
}

// before returns the jobs that a job waits for.
func (w workflow) before(name string) map[string]bool {
	jobs := map[string]bool{}
	for _, need := range w.Jobs[name].Needs {
		jobs[need] = true
		maps.Copy(jobs, w.before(need))
	}
	return jobs
}

func (j job) writes() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(j.Permissions)), func(level string) bool { return level != "read" && level != "none" })
}

func (j job) check(releases bool, fault func(format string, args ...any)) {
	if j.Permissions == nil {
		fault("it has no permissions: of its own")
	}
	if j.Timeout == 0 {
		fault("it has no timeout-minutes")
	}
	if j.Uses != "" {
		fault("it calls a workflow, which these rules do not see")
	}
	verified := false // what another job has built
	env := slices.Collect(maps.Values(j.Env))
	for _, s := range j.Steps {
		for _, values := range []map[string]string{s.Env, s.With} {
			env = slices.AppendSeq(env, maps.Values(values))
		}
		action, _, _ := strings.Cut(s.Uses, "@")
		switch {
		case action == "actions/checkout" && s.With["persist-credentials"] != "false":
			fault("actions/checkout leaves the token in .git: persist-credentials: false")
		case action == "actions/setup-go" && releases && s.With["cache"] != "false":
			fault("actions/setup-go restores a cache that other workflows write: cache: false")
		case strings.HasPrefix(action, "actions/cache") && releases:
			fault("a release has no shared cache")
		case action == "actions/upload-artifact" && releases && s.With["overwrite"] != "true":
			fault("actions/upload-artifact fails when the job runs again: overwrite: true")
		case action == "actions/setup-go" && j.writes():
			fault("it can write, and builds: actions/setup-go")
		}
		if strings.Contains(s.Run, "${{") {
			fault("run: holds an expression, which is text of the shell: take it from env: instead")
		}
		if !j.writes() || s.Run == "" {
			continue
		}
		if command := builder.FindString(s.Run); command != "" {
			fault("it can write, and builds: %s", command)
		}
		if !verified && !strings.HasPrefix(s.Run, "sha256sum --check --strict") {
			fault("it runs a command before it verifies the checksums of its input")
		}
		verified = true
	}
	if !j.writes() && slices.ContainsFunc(env, credential.MatchString) {
		fault("it builds, and gets a credential")
	}
}

func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob("../../.github/workflows/*")
	if err != nil {
		t.Fatal(err)
	}
	writing := map[string]map[string]string{} // the permissions of jobs that can write
	digests := map[string]string{}            // of actions
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range faults(content) {
			t.Errorf("%s: %s", filepath.Base(file), fault)
		}
		for _, match := range pinned.FindAllStringSubmatch(string(content), -1) {
			action, digest, _ := strings.Cut(match[1], "@")
			if other, known := digests[action]; known && other != digest {
				t.Errorf("%s: %s at two commits, %s and %s", filepath.Base(file), action, other, digest)
			}
			digests[action] = digest
		}
		var w workflow
		if err := yaml.Unmarshal(content, &w); err != nil {
			t.Fatal(err)
		}
		for name, j := range w.Jobs {
			if j.writes() {
				writing[filepath.Base(file)+" "+name] = j.Permissions
			}
		}
	}
	if len(digests) == 0 {
		t.Error("no workflow uses an action: the rules have seen nothing")
	}
	// What can write is this alone.
	want := map[string]map[string]string{
		"release.yaml publish": {"contents": "read", "packages": "write", "id-token": "write", "attestations": "write"},
		"release.yaml github":  {"contents": "write"},
		"site.yaml publish":    {"pages": "write", "id-token": "write"},
	}
	if !maps.EqualFunc(writing, want, maps.Equal) {
		t.Errorf("these jobs can write: %v, want %v", writing, want)
	}
}
