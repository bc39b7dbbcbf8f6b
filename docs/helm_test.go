// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const keepsValues = "--reset-then-reuse-values"

var (
	// A command ends with its line, where inline code ends, or where another one begins.
	upgrade = regexp.MustCompile("helm(?:\\s+-\\S+)*\\s+upgrade\\b[^\n`;|]*")
	reuse   = regexp.MustCompile(`--(?:reuse|reset)-values\b`)
)

// upgradesOfOthers are the commands that need no flag, by file, each with its reason.
var upgradesOfOthers = map[string]map[string]string{
	"e2e/cmd/demo/injection.go": {
		"helm upgrade istiod istio/istiod, with nothing new": "a title of the demo; the release is Istio's",
	},
	"e2e/suite/life_test.go": {
		"helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --wait --timeout=2m --kube-context=": "each form of the injection starts from the chart's defaults",
	},
}

// `helm upgrade --set` alone resets all other values, and --reuse-values leaves out the values that are new in the chart.
func TestEveryHelmUpgradeKeepsTheValues(t *testing.T) {
	commands, used := 0, map[string]bool{}
	for file, texts := range shownTexts(t) {
		for _, text := range texts {
			text = strings.ReplaceAll(text, "\\\n", " ")
			if flag := reuse.FindString(text); flag != "" {
				t.Errorf("%s has %s, not %s", file, flag, keepsValues)
			}
			for _, command := range commandsIn(text) {
				commands++
				switch {
				case upgradesOfOthers[file][command] != "":
					used[file+command] = true
				case !strings.Contains(command, keepsValues):
					t.Errorf("%s has an upgrade without %s: %s", file, keepsValues, command)
				}
			}
		}
	}
	if commands < 20 {
		t.Errorf("only %d upgrades were found", commands)
	}
	for file, exceptions := range upgradesOfOthers {
		for command := range exceptions {
			if !used[file+command] {
				t.Errorf("the exception of %s is not needed: %s", file, command)
			}
		}
	}
}

// commandsIn returns the upgrades of a text, each without the next one of its line.
func commandsIn(text string) (commands []string) {
	for _, line := range upgrade.FindAllString(text, -1) {
		for _, command := range strings.Split(line, "helm upgrade")[1:] {
			commands = append(commands, "helm upgrade"+command)
		}
	}
	return commands
}

// Only internal/helm spells the commands that the programs print.
func TestOnlyOnePackageSpellsHelmUpgrade(t *testing.T) {
	for file, texts := range shownTexts(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "e2e/") {
			continue
		}
		for _, text := range texts {
			if upgrade.MatchString(text) {
				t.Errorf("%s spells a command that internal/helm makes: %s", file, text)
			}
		}
	}
}

// shownTexts returns the string literals of the Go files, and the whole text of the other files that a reader or a cluster
// gets, by the file's path in the repository.
func shownTexts(t *testing.T) map[string][]string {
	t.Helper()
	texts := map[string][]string{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file := filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator)))
		if entry.IsDir() {
			if path != ".." && (strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".github" || slices.Contains([]string{"bin", "dist", "node_modules"}, entry.Name())) {
				return filepath.SkipDir
			}
			return nil
		}
		switch {
		case !entry.Type().IsRegular(), file == "docs/helm_test.go", file == "internal/helm/helm.go":
		case filepath.Ext(path) == ".go":
			texts[file] = literals(t, path)
		case regexp.MustCompile(`\.(?:md|ya?ml|tpl|txt|json|sh|golden)$|^Makefile$`).MatchString(file):
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			texts[file] = []string{string(content)}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range []string{"README.md", "docs/install.md", "charts/istiod-agent/templates/NOTES.txt", "cli/checkup/decide.go", "config/crd/" + crdFile(t)} {
		if len(texts[known]) == 0 {
			t.Fatalf("%s was not read", known)
		}
	}
	return texts
}

func crdFile(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("../config/crd/*virtualmeshes.yaml")
	if err != nil || len(files) != 1 {
		t.Fatalf("the CRD of VirtualMesh was not found: %q, %v", files, err)
	}
	return filepath.Base(files[0])
}

// literals returns the values of a Go file's string literals.
func literals(t *testing.T, path string) (values []string) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(tree, func(node ast.Node) bool {
		if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	return values
}

// The chart makes istiod's Roles in the namespaces that are there. Without them istiod waits in Init: its namespace comes first.
func TestTheNamespaceComesBeforeTheChart(t *testing.T) {
	install := regexp.MustCompile(`(?m)^\s*(?:helm install istiod-agent |kubectl apply -k config/default)`)
	create := regexp.MustCompile(`(?m)^\s*kubectl (?:--context=\S+ )?create namespace istio-system\b`)
	label := regexp.MustCompile(`(?m)^\s*kubectl (?:--context=\S+ )?label namespace istio-system istiod-agent\.io/injection=enabled`)
	istio := regexp.MustCompile(`(?m)^\s*(?:istioctl install|helm install istiod )`)
	mesh := regexp.MustCompile(`(?m)^\s*kubectl (?:--context=\S+ )?apply -f \S*virtual-?mesh\S*\.yaml`)
	first := func(pattern *regexp.Regexp, commands string) int {
		if at := pattern.FindStringIndex(commands); at != nil {
			return at[0]
		}
		return -1
	}
	pages := append(pages(t), read(t, "../README.md"), read(t, "../charts/istiod-agent/README.md"))
	installing := 0
	for _, p := range pages {
		commands := strings.Join(p.blocks("code"), "\n")
		installs := first(install, commands)
		if installs < 0 {
			continue
		}
		installing++
		creates, labels, applies, installsIstio := first(create, commands), first(label, commands), first(mesh, commands), first(istio, commands)
		switch {
		case creates < 0 || creates > installs:
			t.Errorf("%s installs the chart before it creates istio-system", p.file)
		case labels >= 0 && labels < creates:
			t.Errorf("%s labels istio-system before it creates it", p.file)
		case installsIstio >= 0 && (labels < 0 || labels > installsIstio):
			t.Errorf("%s installs Istio before it labels istio-system", p.file)
		case applies >= 0 && (applies < installs || installsIstio >= 0 && applies > installsIstio):
			t.Errorf("%s applies the VirtualMesh before the chart, whose CRD it needs, or after Istio, which waits for it", p.file)
		}
	}
	if installing < 4 {
		t.Errorf("only %d pages install the chart", installing)
	}
}
