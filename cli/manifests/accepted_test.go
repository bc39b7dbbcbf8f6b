// SPDX-License-Identifier: Apache-2.0

package manifests_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/diff"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli/clitest"
	"github.com/istiod-agent/istiod-agent/cli/manifests"
)

// escapedJSON is an istiod with all that JSON allows in a string and YAML's
// parser refuses: an escaped slash, surrogate pairs and a raw DEL character.
const escapedJSON = `{"apiVersion":"apps\/v1","kind":"Deployment","metadata":{"name":"istiod","labels":{"app":"istiod"}},
"spec":{"template":{"metadata":{},"spec":{"containers":[{"name":"discovery","image":"registry.example\/pilot",
"env":[{"name":"MARKUP","value":"\u003cp\u003e \ud83d\ude00 \ud834\udd1e` + "\x7f" + `\r\n\t end"}],
"volumeMounts":[{"name":"cacerts","mountPath":"\/etc\/cacerts"}]}],"volumes":[{"name":"cacerts","secret":{"secretName":"cacerts","optional":true}}]}}}}
`

const otherJSON = `{"apiVersion": "v1", "kind": "Service",  "path": "\/ \ud83d\ude00"}`

// untyped is the istiod as an item of an API server's DeploymentList.
var untyped = strings.NewReplacer("# Installed by hand.\napiVersion: apps/v1\nkind: Deployment\n", "").Replace(istiod)

// withMerges is an istiod that takes most of its fields from merge keys, and
// overrides some.
const withMerges = `# Shared by all.
x-defaults:
  container: &container
    image: pilot
    imagePullPolicy: Always
    env:
    - {name: A, value: "1"} # first
    volumeMounts: &mounts
    - {name: cacerts, mountPath: /etc/cacerts, readOnly: true}
  pod: &pod
    serviceAccountName: istiod
    volumes:
    - name: cacerts
      secret: {secretName: cacerts, optional: true}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: istiod
  labels: &labels {app: istiod}
spec:
  template:
    metadata:
      labels:
        <<: *labels
        app: istiod
    spec:
      <<: *pod
      serviceAccountName: other # overrides
      containers:
      - <<: *container
        name: discovery
        imagePullPolicy: Never
      - <<: [*container, {args: [a]}]
        name: beside
        volumeMounts: []
`

// acceptedInputs holds valid input, and how many istiods each has.
func acceptedInputs(t *testing.T) map[string]struct {
	text    string
	istiods int
} {
	t.Helper()
	oneLine := toJSON(t, istiod)
	list := func(kind, apiVersion string, items ...string) string {
		return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"items":[%s]}`, apiVersion, kind, strings.Join(items, ","))
	}
	indented := func(text string) string { return "- " + strings.ReplaceAll(text, "\n", "\n  ") + "\n" }
	pod := `{"metadata":{"name":"istiod-0","labels":{"app":"istiod"}},"spec":{"containers":[{"name":"discovery","volumeMounts":[{"name":"cacerts","mountPath":"/etc/cacerts"}]}]}}`
	return map[string]struct {
		text    string
		istiods int
	}{
		"escapes of JSON":                        {escapedJSON, 1},
		"escapes of JSON on a separator":         {"--- " + escapedJSON, 1},
		"JSON after a byte order mark":           {"\ufeff" + escapedJSON, 1},
		"JSON below a comment":                   {"---\n# Source: istiod/templates/deployment.json\n" + escapedJSON, 1},
		"JSON above a comment and an end marker": {escapedJSON + "# end\n...\n", 1},
		"JSON documents without a line break":    {otherJSON + strings.TrimSpace(escapedJSON) + otherJSON, 1},
		"JSON documents on lines":                {escapedJSON + otherJSON + "\n" + escapedJSON, 2},
		"JSON documents, end markers between":    {escapedJSON + "...\n" + otherJSON + "\n...\n", 1},
		"JSON documents, comments between":       {otherJSON + "\n# c\n\n" + escapedJSON + "# d", 1},
		"JSON with Windows line ends":            {strings.ReplaceAll(escapedJSON+otherJSON+"\n---\n"+istiod, "\n", "\r\n"), 2},
		"JSON, separators and YAML":              {escapedJSON + "---\n" + istiod + "---\n" + otherJSON + escapedJSON, 3},
		"a JSON array":                           {`["\/"]` + escapedJSON, 1},
		"a flow mapping that is not JSON":        {"{x: y, " + oneLine[1:], 1},
		"a List in JSON":                         {list("List", "v1", otherJSON, escapedJSON, oneLine), 2},
		"a DeploymentList in JSON":               {list("DeploymentList", "apps/v1", toJSON(t, untyped)), 1},
		"a DeploymentList in YAML":               {"apiVersion: apps/v1\nkind: DeploymentList\nitems:\n# c\n" + indented(untyped), 1},
		"a DeploymentList with types":            {"apiVersion: apps/v1\nkind: DeploymentList\nitems:\n" + indented(istiod), 1},
		"a PodList":                              {list("PodList", "v1", pod), 1},
		"a List in a List":                       {list("List", "v1", list("DeploymentList", "apps/v1", toJSON(t, untyped)), oneLine), 2},
		"a Deployment with a field items":        {istiod + "items: 5\n", 1},
		"merge keys with overrides":              {withMerges, 1},
		"an override before the merge key":       {strings.Replace(withMerges, "        <<: *labels\n        app: istiod\n", "        app: istiod\n        <<: *labels\n", 1), 1},
		"two merge keys in a mapping":            {strings.Replace(withMerges, "<<: [*container, {args: [a]}]", "<<: *container\n        <<: {args: [a]}", 1), 1},
	}
}

func TestValidInputIsAccepted(t *testing.T) {
	t.Parallel()
	for name, test := range acceptedInputs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := clitest.Run(t, test.text, "inject", "-f", "-")
			once := out.Succeeds(t)
			if reports := strings.Count(out.Stderr, ": Injected: ") + strings.Count(out.Stderr, ": NotTheTarget: "); reports != test.istiods {
				t.Errorf("reports on %d istiods, not %d:\n%s", reports, test.istiods, out.Stderr)
			}
			if twice := clitest.Run(t, once, "inject", "-f", "-").Succeeds(t); twice != once {
				t.Errorf("fed back, it changes again:\n%s", diff.Diff(once, twice))
			}
			if patches := clitest.Run(t, test.text, "inject", "-f", "-", "-o", "patch").Succeeds(t); strings.Count(patches, "\n") != test.istiods {
				t.Errorf("%d patches, not %d:\n%s", strings.Count(patches, "\n"), test.istiods, patches)
			}
			if name != "a PodList" {
				if check := clitest.Run(t, test.text, "inject", "--check", "-f", "-"); !errors.Is(check.Err, manifests.ErrWouldChange) || check.Stdout != "" {
					t.Errorf("--check: error %v, output %q", check.Err, check.Stdout)
				}
			}
			if check := clitest.Run(t, once, "inject", "--check", "-f", "-"); check.Err != nil {
				t.Errorf("--check of what was injected: %v", check.Err)
			}
			asJSON := clitest.Run(t, test.text, "inject", "-f", "-", "-o", "json").Succeeds(t)
			wantSame(t, decode(t, clitest.Run(t, once, "inject", "-f", "-", "-o", "json").Succeeds(t)), decode(t, asJSON))
			before := clitest.Run(t, test.text, "uninject", "-f", "-", "-o", "json").Succeeds(t)
			wantSame(t, decode(t, before), decode(t, clitest.Run(t, once, "uninject", "-f", "-", "-o", "json").Succeeds(t)))
			wantSame(t, decode(t, before), decode(t, clitest.Run(t, asJSON, "uninject", "-f", "-", "-o", "json").Succeeds(t)))
			if back := clitest.Run(t, test.text, "uninject", "-f", "-").Succeeds(t); back != test.text {
				t.Errorf("uninject changes what is not injected:\n%s", diff.Diff(test.text, back))
			}
		})
	}
}

func TestJSONKeepsItsValues(t *testing.T) {
	t.Parallel()
	object := clitest.Parse(t, clitest.Run(t, escapedJSON, "inject", "-f", "-").Succeeds(t))
	container := object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
	wantSame(t, map[string]any{"name": "MARKUP", "value": "<p> 😀 𝄞\x7f\r\n\t end"}, container["env"].([]any)[0])
	wantSame(t, "registry.example/pilot", container["image"])

	out := clitest.Run(t, otherJSON+escapedJSON+otherJSON+"\n---\n"+otherJSON, "inject", "-f", "-").Succeeds(t)
	if !strings.HasPrefix(out, otherJSON+"\n---\napiVersion: apps/v1\n") || !strings.HasSuffix(out, "\n---\n"+otherJSON+"\n---\n"+otherJSON) {
		t.Errorf("the documents beside the istiod are not as they were:\n%s", out)
	}
}

func TestMergeKeysStayAsWritten(t *testing.T) {
	t.Parallel()
	out := clitest.Run(t, withMerges, "inject", "-f", "-").Succeeds(t)
	head, _, _ := strings.Cut(withMerges, "spec:\n  template")
	if !strings.HasPrefix(out, head) {
		t.Errorf("the values that are shared change:\n%s", out)
	}
	for _, kept := range []string{
		"        <<: *labels\n        app: istiod\n",
		"      <<: *pod\n      serviceAccountName: other # overrides\n",
		"      - <<: *container\n        name: discovery\n        imagePullPolicy: Never\n        env:\n",
		"      - <<: [*container, {args: [a]}]\n        name: beside\n        volumeMounts: []\n",
	} {
		if !strings.Contains(out, kept) {
			t.Errorf("does not keep %q:\n%s", kept, out)
		}
	}
	back := clitest.Run(t, out, "uninject", "-f", "-").Succeeds(t)
	wantSame(t, clitest.Parse(t, withMerges), clitest.Parse(t, back))

	// A merged key that has to go: the volume's source.
	volume := strings.Replace(withMerges, "      <<: *pod\n", "      volumes: [{<<: {name: cacerts, secret: {secretName: cacerts}}}, {name: x, emptyDir: {}}]\n", 1)
	out = clitest.Run(t, volume, "inject", "-f", "-").Succeeds(t)
	if !strings.HasPrefix(out, head) || !strings.Contains(out, "- <<: *container\n") {
		t.Errorf("other merge keys are lost:\n%s", out)
	}

	// A container that is itself the source of another: the other keeps its
	// own copy of what it had.
	shared := strings.Replace(withMerges, "      - <<: *container\n        name: discovery\n", "      - &first\n        <<: *container\n        name: discovery\n", 1)
	shared = strings.Replace(shared, "[*container, {args: [a]}]", "*first", 1)
	out = clitest.Run(t, shared, "inject", "-f", "-").Succeeds(t)
	if !strings.Contains(out, "- <<: *container\n        name: discovery\n") || !strings.Contains(out, "<<: *pod\n") || !strings.HasPrefix(out, head) {
		t.Errorf("other merge keys are lost:\n%s", out)
	}
	beside := func(text string) any {
		return clitest.Parse(t, text)["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[1]
	}
	wantSame(t, beside(shared), beside(out))
}

func TestInputThatIsNotReadIsRefused(t *testing.T) {
	t.Parallel()
	nested := strings.Repeat(`{"kind":"List","items":[`, 9) + escapedJSON + strings.Repeat("]}", 9)
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"JSON that breaks off":         {otherJSON + escapedJSON[:60], []string{"standard input, document 2: ", "not JSON: the text ends within a value"}},
		"a comma too many":             {otherJSON + "\n---\n" + `{"a": 1,` + "\n" + `}, "\/"`, []string{"standard input, document 2: not YAML: ", "not JSON: line 2 of the value: invalid character '}'"}},
		"YAML after JSON":              {otherJSON + "\n" + istiod, []string{`standard input, document 2: after a JSON document, expected another one or a line "---"`, "expected { or [, got 'a'"}},
		"a number after JSON":          {escapedJSON + "5", []string{"standard input, document 2: ", "expected { or [, got '5'"}},
		"JSON after YAML":              {istiod + otherJSON, []string{"standard input: not YAML: "}},
		"JSON that is not UTF-8":       {"{\"a\": \"\xff\\/\"}", []string{"standard input: not YAML: ", "not JSON: the value is not UTF-8"}},
		"a key twice in JSON":          {strings.Replace(escapedJSON, `"spec":{"template"`, `"spec":{"template":{},"template"`, 1), []string{"standard input: ", `duplicate field "spec.template"`}},
		"a key twice beside merges":    {strings.Replace(withMerges, "        imagePullPolicy: Never\n", "        name: a\n", 1), []string{"standard input: line ", `key "name" already set in map`}},
		"Lists in Lists without end":   {nested, []string{"standard input: expected at most 8 Lists within each other"}},
		"a number that no float holds": {strings.Replace(escapedJSON, `"spec":{`, `"x":1e400,"spec":{`, 1), []string{"standard input: ", "1e400"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"inject", "-f", "-"}, {"inject", "-f", "-", "--check"}} {
				got := clitest.Run(t, test.text, args...)
				if got.Err == nil || errors.Is(got.Err, manifests.ErrWouldChange) || got.Stdout != "" {
					t.Fatalf("%v: error %v, output %q", args, got.Err, got.Stdout)
				}
				for _, words := range test.want {
					if !strings.Contains(got.Err.Error(), words) {
						t.Errorf("%v: the error does not say %q: %v", args, words, got.Err)
					}
				}
			}
		})
	}
}

func toJSON(t *testing.T, text string) string {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func decode(t *testing.T, text string) any {
	t.Helper()
	var object any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return object
}
