// SPDX-License-Identifier: Apache-2.0

// Package golden holds whole manifests and what becomes of them. For each
// testdata/X.yaml one file says what the command line and the webhook make of it:
//
//	X.yaml.injected   the manifests as they are stored
//	X.yaml.untouched  why nothing changes
//	X.yaml.denied     why they are refused
//
// X.config.yaml, where there is one, is the configuration. X.yaml.uninjected
// stands where taking the agent out again does not give X.yaml itself, such as
// where the agent was there before.
//
// The files are found, not listed; `go test ./golden -update` writes what is
// expected. Inputs called chart-* are rendered by e2e/tests/golden.
package golden_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/diff"

	"github.com/istiod-agent/istiod-agent/cli"
)

var update = flag.Bool("update", false, "write what is expected in testdata as it is now")

// What can become of an input, by the end of the file's name.
const (
	injected  = ".injected"
	untouched = ".untouched"
	denied    = ".denied"
)

// uninjected ends the name of what is left where that is not the input.
const uninjected = ".uninjected"

func TestManifests(t *testing.T) {
	for _, input := range inputs(t) {
		t.Run(filepath.Base(input), func(t *testing.T) {
			t.Parallel()
			outcome, out := inject(t, input)
			if *update {
				forget(t, input+injected, input+untouched, input+denied, input+uninjected)
				write(t, input+outcome, out)
			}
			want := read(t, input+outcome)
			if out != want {
				t.Errorf("the command line gives something else (-expected +now):\n%s", diff.Diff(lines(want), lines(out)))
			}

			webhook, before := serve(t, config(input)), objects(t, read(t, input))
			switch outcome {
			case injected:
				after := objects(t, want)
				if stored := webhook.store(t, before); !reflect.DeepEqual(stored, after) {
					t.Errorf("the webhook gives something else than the command line:\n%s", diff.Diff(after, stored))
				}
				wantNothingLeftToDo(t, webhook, input, after)
				wantInverse(t, input, before)
			case untouched:
				webhook.wantAnswers(t, before, true, want)
			case denied:
				webhook.wantAnswers(t, before, false, want)
			}
		})
	}
}

func TestNoFileIsStale(t *testing.T) {
	known := map[string]bool{}
	for _, input := range inputs(t) {
		for _, file := range []string{input, config(input), input + uninjected} {
			known[file] = true
		}
		var outcomes []string
		for _, outcome := range []string{injected, untouched, denied} {
			if exists(input + outcome) {
				known[input+outcome] = true
				outcomes = append(outcomes, outcome)
			}
		}
		if len(outcomes) != 1 {
			t.Errorf("%s: want one outcome, found %v", input, outcomes)
		}
		if exists(input+uninjected) && !exists(input+injected) {
			t.Errorf("%s is stale: nothing is injected", input+uninjected)
		}
	}
	for _, file := range glob(t, "*") {
		if !known[file] {
			t.Errorf("%s belongs to no input", file)
		}
	}
}

// inject runs the command line on a file and says how it went: what is
// written, or, where nothing changes, what is reported.
func inject(t *testing.T, input string) (outcome, out string) {
	t.Helper()
	written, report, err := run(append([]string{"inject", "-f", input}, configured(input)...)...)
	switch {
	case err != nil:
		return denied, err.Error() + "\n"
	case written == read(t, input):
		return untouched, report
	default:
		return injected, written
	}
}

// wantNothingLeftToDo feeds back what was injected.
func wantNothingLeftToDo(t *testing.T, webhook *server, input string, after []object) {
	t.Helper()
	istiods := 0
	for _, o := range after {
		if !o.isIstiod() {
			continue
		}
		istiods++
		if answer := webhook.ask(t, o); len(answer.Patch) > 0 || !answer.Allowed {
			t.Errorf("fed back, the webhook answers allowed=%t with %s", answer.Allowed, answer.Patch)
		}
	}
	patches, _, err := run(append([]string{"inject", "-o", "patch", "-f", input + injected}, configured(input)...)...)
	if want := strings.Repeat("[]\n", istiods); err != nil || patches != want {
		t.Errorf("fed back, the command line gives error %v and\n%swant\n%s", err, patches, want)
	}
}

// wantInverse takes the agent out again.
func wantInverse(t *testing.T, input string, before []object) {
	t.Helper()
	out, _, err := run("uninject", "-f", input+injected)
	if err != nil {
		t.Fatal(err)
	}
	after := objects(t, out)
	back := reflect.DeepEqual(after, before)
	if *update && !back {
		write(t, input+uninjected, out)
	}
	switch {
	case !exists(input + uninjected):
		if !back {
			t.Errorf("uninjected it is not as it was (-was +is):\n%s", diff.Diff(before, after))
		}
	case back:
		t.Errorf("%s is superfluous: uninjected it is as it was", input+uninjected)
	default:
		if want := read(t, input+uninjected); out != want {
			t.Errorf("uninjected it is something else (-expected +now):\n%s", diff.Diff(lines(want), lines(out)))
		}
	}
}

func run(args ...string) (stdout, stderr string, err error) {
	var out, report bytes.Buffer
	cmd := cli.NewCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&report)
	err = cmd.Execute()
	return out.String(), report.String(), err
}

// inputs are the manifests of testdata.
func inputs(t *testing.T) []string {
	t.Helper()
	files := slices.DeleteFunc(glob(t, "*.yaml"), func(file string) bool { return strings.HasSuffix(file, ".config.yaml") })
	if len(files) == 0 {
		t.Fatal("testdata holds no manifests")
	}
	return files
}

func config(input string) string { return strings.TrimSuffix(input, ".yaml") + ".config.yaml" }

// configured is how the command line is told the configuration.
func configured(input string) []string {
	if !exists(config(input)) {
		return nil
	}
	return []string{"--config", config(input)}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func forget(t *testing.T, files ...string) {
	t.Helper()
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func lines(text string) []string { return strings.Split(text, "\n") }
