// SPDX-License-Identifier: Apache-2.0

// Package docs_test holds the guides to the code and the chart that they describe.
package docs_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestEveryReasonIsExplained requires that docs/reasons.md, which is generated from the blocks of constants with a directive, has
// every constant that looks like a reason: a block without the directive would be left out.
func TestEveryReasonIsExplained(t *testing.T) {
	var explained []string
	for _, h := range read(t, "reasons.md").headings() {
		if h.level == 3 {
			explained = append(explained, h.text)
		}
	}
	declared := reasonsInCode(t, "../patches", "../webhook", "../controllers/istiods", "../controllers/restarts")
	declared = append(declared, keysInCode(t, "../agent/machine", "../agent/notices", "../agent/roots", "../agent/token", "../agent", "../agent/ca", "../agent/ca/certmanager",
		"../agent/ca/secret", "../agent/ca/vault", "../agent/ca/vault/client", "../agent/cacerts")...)
	for _, known := range []string{"NoBuiltInCA", "Initial", "RootChanged", "VaultSealed", "KeyMismatch", "UnboundedPathLength"} {
		if !slices.Contains(declared, known) {
			t.Fatalf("reason %s of the code was not found, only %q", known, declared)
		}
	}
	for _, reason := range declared {
		if !slices.Contains(explained, reason) {
			t.Errorf("reasons.md does not explain %s: does its block of constants have the directive of tools/reasons?", reason)
		}
	}
}

func TestEveryMetricOfTheAgentIsExplained(t *testing.T) {
	source, err := os.ReadFile("../agent/metrics/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, "agent.md").text
	found := regexp.MustCompile(`gauge\("(\w+)"\)|"istiod_agent_(\w+)"`).FindAllStringSubmatch(string(source), -1)
	if len(found) < 8 {
		t.Fatalf("found only %q", found)
	}
	for _, match := range found {
		if name := "istiod_agent_" + match[1] + match[2]; !strings.Contains(text, "`"+name) {
			t.Errorf("agent.md does not explain %s", name)
		}
	}
}

func TestEveryRelativeLinkResolves(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, p := range append(pages(t), read(t, "../README.md")) {
		for _, match := range link.FindAllStringSubmatch(p.prose(), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := p.file
			if target != "" {
				file = filepath.Join(filepath.Dir(p.file), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s: %v", p.file, match[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(read(t, file).anchors(), anchor) {
				t.Errorf("%s links to %s: the page has no such heading", p.file, match[1])
			}
		}
	}
}

func TestEveryYAMLBlockParses(t *testing.T) {
	blocks := 0
	for _, p := range pages(t) {
		for _, block := range p.blocks("yaml") {
			blocks++
			for document := range strings.SplitSeq(block, "\n---\n") {
				var value map[string]any
				if err := yaml.UnmarshalStrict([]byte(document), &value); err != nil || len(value) == 0 {
					t.Errorf("%s: %v in\n%s", p.file, err, document)
				}
			}
		}
	}
	if blocks == 0 {
		t.Error("no YAML block was found")
	}
}

func TestEveryChartValueThatIsNamedExists(t *testing.T) {
	content, err := os.ReadFile("../charts/istiod-agent/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(content, &values); err != nil {
		t.Fatal(err)
	}
	// As Helm's flag, or in the text as `injection.target` and `injection.target=pods`.
	named := regexp.MustCompile("(?:--set(?:-file|-string)? |`)([a-z][A-Za-z]*(?:[.][A-Za-z]+)*)(?:=|`)")
	others := regexp.MustCompile("(?m)^.*istioctl install.*$") // whose values are Istio's
	for _, p := range pages(t) {
		for _, match := range named.FindAllStringSubmatch(others.ReplaceAllString(p.text, ""), -1) {
			top, _, _ := strings.Cut(match[1], ".")
			_, ours := values[top]
			if !strings.HasPrefix(match[0], "--set") && (!ours || strings.HasSuffix(match[1], ".yaml")) {
				continue // some other word, or a file
			}
			var value any = values
			for key := range strings.SplitSeq(match[1], ".") {
				mapping, _ := value.(map[string]any)
				next, known := mapping[key]
				if !known {
					t.Errorf("%s names %s, which the chart does not know", p.file, match[1])
					break
				}
				value = next
			}
		}
	}
}

// reasonsInCode are the values of all constants that are declared as a Reason.
func reasonsInCode(t *testing.T, packages ...string) []string {
	t.Helper()
	var reasons []string
	for _, directory := range packages {
		files, err := filepath.Glob(filepath.Join(directory, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(tree, func(node ast.Node) bool {
				if spec, ok := node.(*ast.ValueSpec); ok && isReason(spec.Type) {
					for _, value := range spec.Values {
						if literal, ok := value.(*ast.BasicLit); ok {
							reason, err := strconv.Unquote(literal.Value)
							if err != nil {
								t.Fatal(err)
							}
							reasons = append(reasons, reason)
						}
					}
				}
				return true
			})
		}
	}
	return reasons
}

// keysInCode finds the string constants that are written like a reason, and the reasons of log lines.
func keysInCode(t *testing.T, packages ...string) (keys []string) {
	t.Helper()
	key := regexp.MustCompile(`(?:^\s+\w+\s+(?:\w+\s+)?= |"reason", )"([A-Z][a-z]\w*|[A-Z]{2}\w*[a-z]\w*)"`)
	for _, directory := range packages {
		files, err := filepath.Glob(filepath.Join(directory, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(source)) {
				if match := key.FindStringSubmatch(line); match != nil {
					keys = append(keys, match[1])
				}
			}
		}
	}
	return keys
}

// isReason tells whether a type is written Reason or patches.Reason.
func isReason(written ast.Expr) bool {
	switch written := written.(type) {
	case *ast.Ident:
		return strings.EqualFold(written.Name, "Reason")
	case *ast.SelectorExpr:
		return written.Sel.Name == "Reason"
	default:
		return false
	}
}

// page is one Markdown file.
type page struct{ file, text string }

func pages(t *testing.T) []page {
	t.Helper()
	files, err := filepath.Glob("*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no page was found: %v", err)
	}
	found := make([]page, 0, len(files))
	for _, file := range files {
		found = append(found, read(t, file))
	}
	return found
}

func read(t *testing.T, file string) page {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return page{file: file, text: string(content)}
}

// fence opens or closes a code block, which may stand in a list.
var fence = regexp.MustCompile("^ *```([a-z]*)$")

// lines calls for each line, with the language of the code block that it stands
// in: "" for none, "code" for one that names no language.
func (p page) lines(call func(line, language string)) {
	language := ""
	for line := range strings.Lines(p.text) {
		line = strings.TrimSuffix(line, "\n")
		switch mark := fence.FindStringSubmatch(line); {
		case mark == nil:
			call(line, language)
		case language != "":
			language = ""
			call("", "")
		case mark[1] == "":
			language = "code"
		default:
			language = mark[1]
		}
	}
}

// prose is the page without its code blocks.
func (p page) prose() string {
	var prose strings.Builder
	p.lines(func(line, language string) {
		if language == "" {
			prose.WriteString(line + "\n")
		}
	})
	return prose.String()
}

// blocks are the page's code blocks in a language.
func (p page) blocks(wanted string) []string {
	var blocks []string
	var block bytes.Buffer
	p.lines(func(line, language string) {
		if language == wanted {
			block.WriteString(line + "\n")
		} else if block.Len() > 0 {
			blocks = append(blocks, block.String())
			block.Reset()
		}
	})
	return blocks
}

type heading struct {
	level int
	text  string
}

func (p page) headings() []heading {
	var found []heading
	for line := range strings.Lines(p.prose()) {
		marks, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && marks != "" && strings.Trim(marks, "#") == "" {
			found = append(found, heading{len(marks), text})
		}
	}
	return found
}

// anchors are the headings as GitHub makes links of them.
func (p page) anchors() []string {
	dropped := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	headings := p.headings()
	anchors := make([]string, 0, len(headings))
	for _, h := range headings {
		plain := dropped.ReplaceAllString(strings.ToLower(h.text), "")
		anchors = append(anchors, strings.ReplaceAll(plain, " ", "-"))
	}
	return anchors
}
