// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	yamlv2 "go.yaml.in/yaml/v2"
	"k8s.io/apimachinery/pkg/util/diff"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli"
)

const (
	// istiod is an istiod that a person might have written.
	istiod = `# Installed by hand.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: istiod
  namespace: istio-system
  labels: {app: istiod}
spec:
  template:
    metadata:
      labels: {app: istiod} # as selected
    spec:
      containers:
      - name: discovery
        image: pilot
        volumeMounts:
        - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}
      volumes:
      - name: cacerts
        secret: {secretName: cacerts, optional: true}
`
	// refused is an istiod that cannot be injected.
	refused = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod-other, labels: {app: istiod}}
spec: {template: {spec: {containers: [{name: pilot}]}}}
`
	service = "apiVersion: v1\nkind: Service\nmetadata: {  name: istiod  } # kept as it is\n"
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
				if out := run(t, text, command, "-f", "-").succeeds(t); out != text {
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
	out := run(t, before+"---\n"+istiod+after, "inject", "-f", "-").succeeds(t)
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

func TestInjectingWritesWhatItIsFedAgain(t *testing.T) {
	t.Parallel()
	for name, text := range inAllForms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			once := run(t, text, "inject", "-f", "-").succeeds(t)
			wantInjected(t, once)
			if twice := run(t, once, "inject", "-f", "-").succeeds(t); twice != once {
				t.Errorf("fed back, it changes again:\n%s", diff.Diff(once, twice))
			}
			if check := run(t, once, "inject", "--check", "-f", "-"); check.err != nil || check.stdout != "" {
				t.Errorf("--check of what was injected: error %v, output %q", check.err, check.stdout)
			}
		})
	}
}

func TestUninjectGivesTheOriginalBack(t *testing.T) {
	t.Parallel()
	for name, text := range inAllForms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			once := run(t, text, "inject", "-f", "-").succeeds(t)
			back := run(t, once, "uninject", "-f", "-").succeeds(t)
			wantSame(t, parse(t, text), parse(t, back))
		})
	}
}

func inAllForms(t *testing.T) map[string]string {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(istiod))
	if err != nil {
		t.Fatal(err)
	}
	indented, err := json.MarshalIndent(parse(t, istiod), "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"YAML":                  istiod,
		"after a separator":     "---\n" + istiod,
		"with a comment on it":  "--- # the one\n" + istiod,
		"Windows line ends":     strings.ReplaceAll("---\n"+istiod, "\n", "\r\n"),
		"no newline at the end": strings.TrimSuffix(istiod, "\n"),
		"lists indented": `apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod, labels: {app: istiod}}
spec:
  template:
    metadata: {labels: {app: istiod}}
    spec:
      containers:
        - name: discovery
          volumeMounts:
            - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}
      volumes:
        - name: cacerts
          secret: {secretName: cacerts, optional: true}
`,
		"an anchor used elsewhere": strings.Replace(istiod, "volumes:\n", "volumes: &v\n", 1) + "  copy: *v\n",
		"one line":                 string(asJSON),
		"one line on a separator":  "--- " + string(asJSON),
		"JSON as kubectl has it":   string(indented) + "\n",
		"a List":                   "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimPrefix(istiod, "# Installed by hand.\n"), "\n", "\n  ") + "\n",
		"an end marker":            istiod + "...\n",
		"quoted keys":              strings.NewReplacer("spec:", `"spec":`, "containers:", `'containers':`).Replace(istiod),
	}
}

func TestTheChangedDocumentKeepsItsStyle(t *testing.T) {
	t.Parallel()
	forms := inAllForms(t)
	windows := run(t, forms["Windows line ends"], "inject", "-f", "-").succeeds(t)
	if strings.Count(windows, "\n") != strings.Count(windows, "\r\n") {
		t.Errorf("Windows line ends are mixed with others: %q", windows)
	}
	if out := run(t, forms["after a separator"], "inject", "-f", "-").succeeds(t); !strings.HasPrefix(out, "---\n# Installed by hand.\napiVersion") {
		t.Errorf("the separator is lost:\n%s", out)
	}
	if out := run(t, forms["with a comment on it"], "inject", "-f", "-").succeeds(t); strings.Count(out, "# the one\n") != 1 {
		t.Errorf("the separator's comment is not there once:\n%s", out)
	}
	if out := run(t, forms["lists indented"], "inject", "-f", "-").succeeds(t); !strings.Contains(out, "\n        - name: istiod-agent\n") {
		t.Errorf("lists are not indented as they were:\n%s", out)
	}
	for _, form := range []string{"one line", "one line on a separator", "JSON as kubectl has it"} {
		if out := run(t, forms[form], "inject", "-f", "-").succeeds(t); strings.Contains(out, `"apiVersion"`) || !strings.Contains(out, "apiVersion: apps/v1\n") {
			t.Errorf("%s becomes neither JSON nor plain YAML:\n%s", form, out)
		}
	}
}

func TestWhatUsesAnAnchorElsewhereStaysAsItWas(t *testing.T) {
	t.Parallel()
	out := run(t, inAllForms(t)["an anchor used elsewhere"], "inject", "-f", "-").succeeds(t)
	spec := parse(t, out)["spec"].(map[string]any)
	wantSame(t, []any{map[string]any{"name": "cacerts", "secret": map[string]any{"secretName": "cacerts", "optional": true}}}, spec["copy"])
}

// wantInjected wants one istiod with both containers and the volume in memory.
func wantInjected(t *testing.T, text string) {
	t.Helper()
	object := parse(t, text)
	if items, ok := object["items"].([]any); ok {
		object = items[0].(map[string]any)
	}
	spec := object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	for list, name := range map[string]string{"initContainers": "istiod-agent-init", "containers": "istiod-agent"} {
		entries, _ := spec[list].([]any)
		if len(entries) == 0 || entries[len(entries)-1].(map[string]any)["name"] != name {
			t.Errorf("%s do not end with %s:\n%s", list, name, text)
		}
	}
	want := []any{map[string]any{"name": "cacerts", "emptyDir": map[string]any{"medium": "Memory", "sizeLimit": "1Mi"}}}
	if !reflect.DeepEqual(spec["volumes"], want) {
		t.Errorf("volumes are %v", spec["volumes"])
	}
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
				args = append(args, "-f", write(t, filepath.Join(dir, string(rune('a'+i))+".yaml"), content))
			}
			out := run(t, "", args...).succeeds(t)
			var got []map[string]any
			for document := range strings.SplitSeq("\n"+out, "\n---") {
				if object := parse(t, document); object != nil {
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
	write(t, filepath.Join(dir, "b.yml"), "file: b\n")
	write(t, filepath.Join(dir, "a.yaml"), "file: a\n")
	write(t, filepath.Join(dir, "c.json"), `{"file": "c"}`+"\n")
	write(t, filepath.Join(dir, "README.md"), "file: readme\n")
	write(t, filepath.Join(dir, "below", "d.yaml"), "file: d\n")

	const here = "file: a\n---\nfile: b\n"
	if got := run(t, "", "inject", "-f", dir).succeeds(t); got != here+"---\n"+`{"file": "c"}`+"\n" {
		t.Errorf("got\n%s", got)
	}
	if got := run(t, "", "inject", "-R", "-f", dir).succeeds(t); got != here+"---\nfile: d\n---\n"+`{"file": "c"}`+"\n" {
		t.Errorf("with -R got\n%s", got)
	}
	if got := run(t, "file: first\n", "inject", "-f", "-", "-f", filepath.Join(dir, "a.yaml")).succeeds(t); got != "file: first\n---\nfile: a\n" {
		t.Errorf("standard input first, got\n%s", got)
	}
}

func TestOutputAsJSON(t *testing.T) {
	t.Parallel()
	one := run(t, "# nothing\n---\n"+istiod, "inject", "-f", "-", "-o", "json").succeeds(t)
	if !json.Valid([]byte(one)) || !strings.Contains(one, "\n    \"kind\": \"Deployment\"") {
		t.Fatalf("not one indented object:\n%s", one)
	}
	wantSame(t, parse(t, run(t, istiod, "inject", "-f", "-").succeeds(t)), parse(t, one))

	several := run(t, service+"---\n"+istiod+"---\n---\na: '<&>'\n", "inject", "-f", "-", "-o", "json").succeeds(t)
	list := parse(t, several)
	items, _ := list["items"].([]any)
	if list["kind"] != "List" || list["apiVersion"] != "v1" || len(items) != 3 {
		t.Fatalf("not a List of three:\n%s", several)
	}
	wantSame(t, parse(t, one), items[1].(map[string]any))
}

func TestOutputAsPatches(t *testing.T) {
	t.Parallel()
	injected := run(t, istiod, "inject", "-f", "-").succeeds(t)
	out := run(t, service+"---\n"+istiod+"---\n"+injected, "inject", "-f", "-", "-o", "patch").succeeds(t)
	patches := strings.SplitAfter(out, "\n")
	if len(patches) != 3 || patches[1] != "[]\n" {
		t.Fatalf("want a patch, then an empty one, got\n%s", out)
	}
	var operations []struct{ Op, Path string }
	if err := json.Unmarshal([]byte(patches[0]), &operations); err != nil || len(operations) == 0 {
		t.Fatalf("%v: %s", err, patches[0])
	}
	for _, operation := range operations {
		if !strings.HasPrefix(operation.Path, "/spec/template/") {
			t.Errorf("an operation outside of the pod template: %+v", operation)
		}
	}
	// A List's patches are each for the object itself, as kubectl patch wants them.
	list := "kind: List\napiVersion: v1\nitems:\n- " + strings.ReplaceAll(istiod, "\n", "\n  ") + "\n"
	if got := run(t, list, "inject", "-f", "-", "-o", "patch").succeeds(t); got != patches[0] {
		t.Errorf("in a List the patch is\n%s", got)
	}
}

func TestCheckWritesNothingAndSaysWhatWouldChange(t *testing.T) {
	t.Parallel()
	injected := run(t, istiod, "inject", "-f", "-").succeeds(t)
	tests := map[string]struct {
		command, text string
		err           error
		says          string
	}{
		"inject what is not":      {"inject", istiod, cli.ErrWouldChange, "would change: add container istiod-agent-init, add container istiod-agent, make volume cacerts in-memory, set annotation istiod-agent.io/injected"},
		"inject what is":          {"inject", injected, nil, "AlreadyInjected: "},
		"uninject what is":        {"uninject", injected, cli.ErrWouldChange, "would change: put volume cacerts back, remove container istiod-agent-init"},
		"uninject what is not":    {"uninject", istiod, nil, "NotInjected: "},
		"one of two":              {"inject", injected + "---\n" + istiod, cli.ErrWouldChange, "standard input, document 2: deployment/istiod in namespace istio-system: would change: "},
		"nothing there":           {"inject", service, nil, "No istiod found: looked for a Deployment or Pod with the label app=istiod."},
		"an istiod that opts out": {"inject", strings.Replace(istiod, "name: istiod\n", "name: istiod\n  annotations: {istiod-agent.io/inject: \"false\"}\n", 1), nil, "OptedOut: "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := run(t, test.text, test.command, "--check", "-f", "-")
			if !errors.Is(got.err, test.err) || got.stdout != "" || !strings.Contains(got.stderr, test.says) {
				t.Errorf("error %v, output %q, report:\n%s", got.err, got.stdout, got.stderr)
			}
		})
	}
}

func TestAnErrorLeavesNothingHalfWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.yaml")
	empty := filepath.Join(dir, "empty")
	write(t, filepath.Join(empty, "notes.txt"), "")
	tests := map[string]struct {
		text string
		args []string
		want []string
	}{
		"denied after one that is not":     {istiod + "---" + refused, []string{"-f", "-"}, []string{"standard input, document 2: deployment/istiod-other: NoIstiodContainer: cannot inject: looked for a container that mounts /etc/cacerts", "and found containers pilot"}},
		"denied in a check":                {refused, []string{"-f", "-", "--check"}, []string{"deployment/istiod-other: NoIstiodContainer: "}},
		"a missing file after a good one":  {istiod, []string{"-f", "-", "-f", missing}, []string{missing, "no such file or directory"}},
		"a directory with no manifest":     {"", []string{"-f", empty}, []string{empty, "holds no .yaml, .yml or .json file"}},
		"not YAML, after a good document":  {istiod + "---\n{\n", []string{"-f", "-"}, []string{"standard input, document 2: not YAML: "}},
		"binary":                           {"\x00\xff", []string{"-f", "-"}, []string{"standard input: not YAML: "}},
		"a key given twice in istiod":      {strings.Replace(istiod, "      volumes:\n", "      volumes: []\n      volumes:\n", 1), []string{"-f", "-"}, []string{`key "volumes" already set in map`}},
		"documents that nothing separates": {istiod + "...\na: b\n", []string{"-f", "-"}, []string{"standard input: not YAML: ", "did not find expected <document start>"}},
		"objects that nothing separates":   {`{"a": 1}` + "\n" + `{"b": 2}`, []string{"-f", "-"}, []string{"standard input: not YAML: ", "did not find expected <document start>"}},
		"old Macintosh line ends":          {"a: b\r---\rc: d\r", []string{"-f", "-"}, []string{`standard input: holds several documents; start each with a line "---"`}},
		"no file named":                    {"", nil, []string{`required flag(s) "filename" not set`}},
		"an unknown format":                {istiod, []string{"-f", "-", "-o", "xml"}, []string{`--output: expected yaml, json or patch, got "xml"`}},
		"an unknown flag":                  {istiod, []string{"-f", "-", "--force"}, []string{"unknown flag: --force"}},
		"a file without -f":                {istiod, []string{"istiod.yaml", "-f", "-"}, []string{`unknown command "istiod.yaml"`}},
		"a missing configuration":          {istiod, []string{"-f", "-", "--config", missing}, []string{"--config: ", missing, "no such file or directory"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := run(t, test.text, append([]string{"inject"}, test.args...)...)
			if got.err == nil || got.stdout != "" {
				t.Fatalf("error %v, output %q", got.err, got.stdout)
			}
			for _, words := range test.want {
				if !strings.Contains(got.err.Error(), words) {
					t.Errorf("the error does not say %q: %v", words, got.err)
				}
			}
		})
	}
}

func TestABadConfigurationIsAnsweredWithAllItsMistakes(t *testing.T) {
	t.Parallel()
	config := write(t, filepath.Join(t.TempDir(), "injection.yaml"), "apiVersion: config.istiod-agent.io/v1alpha1\nkind: InjectionConfiguration\ntarget: pod\nagent: {imagePullPolicy: Maybe}\n")
	for _, command := range []string{"inject", "uninject"} {
		got := run(t, istiod, command, "-f", "-", "--config", config)
		if got.err == nil || got.stdout != "" {
			t.Fatalf("%s: error %v, output %q", command, got.err, got.stdout)
		}
		for _, words := range []string{config, "target: Unsupported value", "agent.imagePullPolicy: Unsupported value"} {
			if !strings.Contains(got.err.Error(), words) {
				t.Errorf("%s: the error does not say %q: %v", command, words, got.err)
			}
		}
	}
}

func TestAConfigurationIsFollowed(t *testing.T) {
	t.Parallel()
	config := write(t, filepath.Join(t.TempDir(), "injection.yaml"), "apiVersion: config.istiod-agent.io/v1alpha1\nkind: InjectionConfiguration\nagent: {image: example.com/agent:v9}\n")
	out := run(t, istiod, "inject", "-f", "-", "--config", config).succeeds(t)
	if strings.Count(out, "image: example.com/agent:v9\n") != 2 {
		t.Errorf("the image is not in both containers:\n%s", out)
	}
}

func TestAnInputThatBreaksOffIsAnError(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	var stdout bytes.Buffer
	cmd := cli.NewCommand()
	cmd.SetArgs([]string{"inject", "-f", "-"})
	cmd.SetIn(iotest.ErrReader(broken))
	cmd.SetOut(&stdout)
	cmd.SetErr(&bytes.Buffer{})
	if err := cmd.Execute(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "standard input") || stdout.Len() > 0 {
		t.Errorf("error %v, output %q", err, stdout.String())
	}
}

// Whatever is fed in: an error writes nothing, and what is written means the
// same in each format and is as it would be injected.
func FuzzInject(f *testing.F) {
	f.Add(istiod)
	f.Add(refused)
	f.Add("# a\n---\n" + service + "---\n" + istiod)
	f.Add("--- &a\napiVersion: apps/v1\nkind: Deployment\nmetadata: {labels: &l {app: istiod}}\nspec: {template: {metadata: {labels: *l}, spec: {<<: {x: 1}, containers: [{name: discovery, image: ! \"a\"}]}}}\n")
	f.Add("kind: List\nitems:\n  - # c\n    apiVersion: v1\n    kind: Pod\n    metadata: {labels: {app: istiod}}\n    spec: {containers: [{name: discovery}]}\n")
	f.Add("? apiVersion\n: apps/v1\n? kind\n: Deployment\nmetadata:\n  labels: !!map {app: !!str istiod}\nspec:\n  template:\n    spec:\n      containers:\n      - name: >-\n          discovery\n        port: 0o17\n        at: 12:30\n        on: yes\n")
	f.Fuzz(func(t *testing.T, text string) {
		out := run(t, text, "inject", "-f", "-")
		if out.err != nil {
			if out.stdout != "" {
				t.Errorf("error %v, and output %q", out.err, out.stdout)
			}
			return
		}
		if again := run(t, out.stdout, "inject", "-f", "-").succeeds(t); again != out.stdout {
			t.Errorf("fed back, it changes again:\n%s", diff.Diff(out.stdout, again))
		}
		asJSON := run(t, text, "inject", "-f", "-", "-o", "json")
		if asJSON.err != nil || !hasOnlyTextKeys(text) {
			return // what passes through need not fit JSON, where 0 and 00 are one key
		}
		if written := run(t, out.stdout, "inject", "-f", "-", "-o", "json").succeeds(t); written != asJSON.stdout {
			wantSame(t, parse(t, asJSON.stdout), parse(t, written))
		}
	})
}

func hasOnlyTextKeys(stream string) bool {
	documents := yamlv2.NewDecoder(strings.NewReader(stream))
	for {
		var document any
		if err := documents.Decode(&document); err != nil {
			return errors.Is(err, io.EOF)
		}
		if !textKeys(document) {
			return false
		}
	}
}

func textKeys(value any) bool {
	switch value := value.(type) {
	case map[any]any:
		for key, member := range value {
			if _, isText := key.(string); !isText || !textKeys(member) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(value, func(entry any) bool { return !textKeys(entry) })
	}
	return true
}

// result of one run of the command.
type result struct {
	stdout, stderr string
	err            error
}

func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := cli.NewCommand()
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	err := cmd.Execute()
	return result{stdout.String(), stderr.String(), err}
}

func (r result) succeeds(t *testing.T) string {
	t.Helper()
	if r.err != nil {
		t.Fatalf("%v\n%s", r.err, r.stderr)
	}
	return r.stdout
}

func write(t *testing.T, file, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return object
}

func wantSame(t *testing.T, want, got any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Errorf("not the same (-want +got):\n%s", diff.Diff(want, got))
	}
}
