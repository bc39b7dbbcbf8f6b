// SPDX-License-Identifier: Apache-2.0

package manifests_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

func TestEverythingElsePassesThroughByteForByte(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":                          "",
		"one object":                       service,
		"no newline at the end":            strings.TrimSuffix(service, "\n"),
		"several documents":                service + "---\n" + service + "--- # next\n" + service,
		"separators alone":                 "---\n---\n\n---\n",
		"a separator at the end":           service + "---",
		"comments alone":                   "# a\n---\n# b\n",
		"Windows line ends":                strings.ReplaceAll("# a\n---\n"+service+"---\n"+service, "\n", "\r\n"),
		"tabs and spaces at line ends":     "a: b \t\n---\t\nc: d  \n",
		"a byte order mark":                "\ufeff" + service,
		"a separator inside a text":        "a: |\n  ---\n  b\n",
		"dashes that start no document":    "a: b\n---- c: d\n",
		"a key given twice":                "a: 1\na: 2\n",
		"anchors and merge keys":           "a: &x {b: c}\nd: *x\ne: {<<: *x}\n",
		"JSON":                             `{"apiVersion": "v1","kind":"Service"}`,
		"plain text":                       "just words",
		"a list":                           "- a\n- b\n",
		"another Deployment":               strings.ReplaceAll(istiod, "app: istiod", "app: other"),
		"istiod of another kind":           strings.ReplaceAll(istiod, "kind: Deployment", "kind: StatefulSet"),
		"istiod of another group":          strings.ReplaceAll(istiod, "apps/v1", "example.com/v1"),
		"labels that are no labels":        strings.ReplaceAll(istiod, "labels: {app: istiod}", "labels: [app]"),
		"a List of others":                 "kind: List\napiVersion: v1\nitems: [{kind: Service}, null, 5]\n",
		"istiod that says no":              strings.ReplaceAll(istiod, "  labels: {app: istiod}\nspec", "  labels: {app: istiod, istiod-agent.io/inject: \"false\"}\nspec"),
		"an istiod Pod, not the target":    strings.NewReplacer("apps/v1", "v1", "Deployment", "Pod").Replace(istiod),
		"letters that JSON would escape":   "a: \"<&>\u2028\"\n",
		"a number that no float can hold":  "a: 12345678901234567890123\n",
		"a date, which is a text for JSON": "a: 2026-01-01\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, command := range []string{"inject", "uninject"} {
				if out := clitest.Run(t, text, command, "-f", "-").Succeeds(t); out != text {
					t.Errorf("%s: got\n%q\nwant\n%q", command, out, text)
				}
			}
		})
	}
}

func TestOnlyTheIstiodsDocumentChanges(t *testing.T) {
	t.Parallel()
	before := "# a\r\n---\r\n" + service
	after := "---\n# b\n" + service + "--- # c"
	out := clitest.Run(t, before+"---\n"+istiod+after, "inject", "-f", "-").Succeeds(t)
	if !strings.HasPrefix(out, before+"---\n# Installed by hand.\napiVersion: apps/v1\n") || !strings.HasSuffix(out, "\n"+after) {
		t.Errorf("got\n%s", out)
	}
	if !strings.Contains(out, "labels: {app: istiod} # as selected\n") {
		t.Errorf("a comment is lost:\n%s", out)
	}
	if documents := strings.Count("\n"+out, "\n---"); documents != 4 {
		t.Errorf("want 4 separators, got %d:\n%s", documents, out)
	}
	wantInjected(t, out[len(before):len(out)-len(after)])
}

func TestFilesJoinAsDocuments(t *testing.T) {
	t.Parallel()
	for name, files := range map[string][]string{
		"with newlines":         {"a: 1\n", "b: 2\n", "c: 3\n"},
		"without newlines":      {"a: 1", "b: 2", "c: 3"},
		"with separators":       {"---\na: 1\n", "---\nb: 2\n", "---\nc: 3\n"},
		"some with, some not":   {"a: 1", "---\nb: 2", "# c\n---\nc: 3\n"},
		"empty ones between":    {"a: 1", "", "b: 2\n", "# nothing\n", "c: 3"},
		"separators at the end": {"a: 1\n---\n", "b: 2\n---", "c: 3"},
		"as JSON":               {`{"a": 1}`, `{"b": 2}`, `{"c": 3}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, args := t.TempDir(), []string{"inject"}
			for i, content := range files {
				args = append(args, "-f", clitest.Write(t, filepath.Join(dir, string(rune('a'+i))+".yaml"), content))
			}
			out := clitest.Run(t, "", args...).Succeeds(t)
			var got []map[string]any
			for document := range strings.SplitSeq("\n"+out, "\n---") {
				if object := clitest.Parse(t, document); object != nil {
					got = append(got, object)
				}
			}
			wantSame(t, []map[string]any{{"a": 1.0}, {"b": 2.0}, {"c": 3.0}}, got)
		})
	}
}

func TestDirectoriesAreReadInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clitest.Write(t, filepath.Join(dir, "b.yml"), "file: b\n")
	clitest.Write(t, filepath.Join(dir, "a.yaml"), "file: a\n")
	clitest.Write(t, filepath.Join(dir, "c.json"), `{"file": "c"}`+"\n")
	clitest.Write(t, filepath.Join(dir, "README.md"), "file: readme\n")
	clitest.Write(t, filepath.Join(dir, "below", "d.yaml"), "file: d\n")

	const here = "file: a\n---\nfile: b\n"
	if got := clitest.Run(t, "", "inject", "-f", dir).Succeeds(t); got != here+"---\n"+`{"file": "c"}`+"\n" {
		t.Errorf("got\n%s", got)
	}
	if got := clitest.Run(t, "", "inject", "-R", "-f", dir).Succeeds(t); got != here+"---\nfile: d\n---\n"+`{"file": "c"}`+"\n" {
		t.Errorf("with -R got\n%s", got)
	}
	if got := clitest.Run(t, "file: first\n", "inject", "-f", "-", "-f", filepath.Join(dir, "a.yaml")).Succeeds(t); got != "file: first\n---\nfile: a\n" {
		t.Errorf("standard input first, got\n%s", got)
	}
}
