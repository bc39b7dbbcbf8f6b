// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const threatModel = "The threat model"

// TestClaims holds every sentence of security.md to the tests that show it: see claims.
func TestClaims(t *testing.T) {
	sections := read(t, "security.md").sentences()
	for section := range claims {
		if sections[section] == nil {
			t.Errorf("security.md has no section %q with sentences", section)
		}
	}
	sources := map[string]testSource{}
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		if section == threatModel {
			continue // names its tests itself
		}
		held := map[string]string{}
		for prefix, shownBy := range claims[section] {
			var found []string
			for _, sentence := range sections[section] {
				if strings.HasPrefix(sentence, prefix) {
					found = append(found, sentence)
				}
			}
			if len(found) != 1 {
				t.Errorf("%s: %q begins %d sentences, want 1", section, prefix, len(found))
				continue
			}
			if other, twice := held[found[0]]; twice {
				t.Errorf("%s: %q and %q begin the same sentence", section, prefix, other)
			}
			held[found[0]] = prefix
			checkProof(t, sources, section+": "+prefix, shownBy)
		}
		for _, sentence := range sections[section] {
			if _, ok := held[sentence]; !ok {
				t.Errorf("%s: no test is named for: %s", section, sentence)
			}
		}
	}
}

// TestThreatModel requires that the page's own table of threats names tests that exist.
func TestThreatModel(t *testing.T) {
	sources, rows := map[string]testSource{}, 0
	for _, row := range read(t, "security.md").sentences()[threatModel] {
		cells := strings.Split(row, " | ")
		if len(cells) == 3 { // the last cell is empty
			cells[2] = strings.TrimSuffix(cells[2], " |")
			cells = append(cells, "")
		}
		if len(cells) != 4 {
			t.Errorf("no row of a table: %s", row)
			continue
		}
		rows++
		tests := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[3], -1)
		if len(tests) == 0 && !strings.HasPrefix(cells[2], "not by this project") {
			t.Errorf("no test is named in: %s", row)
		}
		for _, test := range tests {
			checkProof(t, sources, row, test[1])
		}
	}
	if rows == 0 {
		t.Error("no row was found")
	}
}

// TestBounds holds the numbers on the page to the code's.
func TestBounds(t *testing.T) {
	text := read(t, "security.md").text
	for page, code := range map[string]struct{ file, value string }{
		"| TLS handshake, header | 5 s |":         {"internal/serve/serve.go", "headerTimeout = 5 * time.Second"},
		"| request with its body | 5 s |":         {"internal/serve/serve.go", "bodyTimeout = 5 * time.Second"},
		"| handler and answer | 30 s |":           {"internal/serve/serve.go", "answerTimeout = 30 * time.Second"},
		"| idle connection | 90 s |":              {"internal/serve/serve.go", "idleTimeout = 90 * time.Second"},
		"| headers | about 8 KiB |":               {"internal/serve/serve.go", "maxHeaderBytes = 8 << 10"},
		"| HTTP/2 streams of a connection | 8":    {"internal/serve/serve.go", "maxStreams = 8"},
		"| connections | 64 (admission), ":        {"cmd/istiod-agent-webhook/listeners.go", "admissionConnections = 64"},
		", 32 (health, metrics), ":                {"cmd/istiod-agent-webhook/listeners.go", "otherConnections = 32"},
		", 32 (bundle), ":                         {"cmd/istiod-agent-webhook/listeners.go", "bundleConnections = 32"},
		", 16 (agent) |":                          {"cmd/istiod-agent/run.go", "connections = 16"},
		"| 256 at once, then 100 a second |":      {"internal/serve/connections.go", "connectionRate, connectionBurst = 100, 256"},
		"| an admission review | 4 MiB, ":         {"webhook/review.go", "maxReview = 4 << 20"},
		", 50,000 values |":                       {"webhook/review.go", "maxValues = 50_000"},
		"| bodies of all reviews in flight | 128": {"webhook/bounds.go", "budget     = 128 << 10"},
		"the request waits up to 2 s":             {"webhook/bounds.go", "maxWait = 2 * time.Second"},
		"within the webhook's timeout (5 s)":      {"charts/istiod-agent/values.yaml", "timeoutSeconds: 5"},
		"in the log has at most 1 KiB":            {"internal/bounded/bounded.go", "MaxMessage = 1024"},
		"ten a second, after at most 200":         {"webhook/recorder.go", "logRate  = 10\n\tlogBurst = 200"},
		"with at most one lookup a second":        {"webhook/rights.go", "rightsRate, rightsBurst = 1, "},
		"an answer has at most 256 KiB":           {"agent/ca/vault/client/client.go", "answerLimit = 256 << 10"},
		" and 16 certificates":                    {"agent/cacerts/parse.go", "maxChain = 16"},
		"no RSA key above 16384 bits":             {"internal/pemcerts/pemcerts.go", "maxRSABits = 16384"},
		"is longer than 1 KiB":                    {"agent/cacerts/verify.go", "maxDetail = 1 << 10"},
		"RSA keys of at least 2048 bits":          {"agent/cacerts/verify.go", "minRSABits = 2048"},
		"every 30 seconds it compares digests":    {"agent/machine/next.go", "PollInterval = 30 * time.Second"},
	} {
		if !strings.Contains(text, page) {
			t.Errorf("security.md does not hold %q", page)
		}
		if content := read(t, filepath.Join("..", code.file)).text; !strings.Contains(content, code.value) {
			t.Errorf("%s does not hold %q, which security.md describes as %q", code.file, code.value, page)
		}
	}
}

// TestOneServer requires that every listener has the bounds of internal/serve.
func TestOneServer(t *testing.T) {
	another := regexp.MustCompile(`http\.Server\{|\.ListenAndServe|http\.Serve\(`)
	for _, directory := range []string{"agent", "api", "cli", "cmd", "controllers", "internal", "patches", "webhook"} {
		if err := filepath.WalkDir(filepath.Join("..", directory), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && filepath.Base(filepath.Dir(path)) != "serve" &&
				another.MatchString(read(t, path).text) {
				t.Errorf("%s serves without the bounds of internal/serve", path)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTrustAdmin requires that the role on the page is the sample's, and that no other role includes it.
func TestTrustAdmin(t *testing.T) {
	sample := read(t, "../config/samples/trust-admin.yaml").text
	_, role, _ := strings.Cut(sample, "apiVersion:")
	blocks := read(t, "security.md").blocks("yaml")
	if !slices.Contains(blocks, "apiVersion:"+role) {
		t.Error("security.md does not hold the sample")
	}
	if strings.Contains(role, "labels:") || strings.Contains(role, "aggregat") {
		t.Error("the role may be aggregated into another")
	}
}

// checkProof accepts a class of text that no test can show, or tests that exist.
func checkProof(t *testing.T, sources map[string]testSource, claim, shownBy string) {
	t.Helper()
	class, source, _ := strings.Cut(shownBy, ": ")
	switch class {
	case advice, definition, limit:
		return
	case kubernetes:
		if !strings.HasPrefix(source, "https://kubernetes.io/docs/") {
			t.Errorf("%s: %q names no page of Kubernetes", claim, shownBy)
		}
		return
	}
	if shownBy == "" {
		t.Errorf("%s: no test is named", claim)
	}
	for test := range strings.FieldsSeq(shownBy) {
		directory, function, _ := strings.Cut(test, ".")
		function, name, isCase := strings.Cut(function, "/")
		if _, ok := sources[directory]; !ok {
			sources[directory] = testSourceOf(t, directory)
		}
		if !sources[directory].tests[function] {
			t.Errorf("%s: there is no test %s", claim, test)
		}
		if isCase && !sources[directory].literals[name] {
			t.Errorf("%s: test %s has no such case", claim, test)
		}
	}
}

// testSource is what a package's test files declare: their tests, and the strings that may name a case, written as
// `go test -run` takes them.
type testSource struct{ tests, literals map[string]bool }

func testSourceOf(t *testing.T, directory string) testSource {
	t.Helper()
	source := testSource{tests: map[string]bool{}, literals: map[string]bool{}}
	files, err := filepath.Glob(filepath.Join("..", directory, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.FuncDecl:
				isTest := strings.HasPrefix(node.Name.Name, "Test") || strings.HasPrefix(node.Name.Name, "Fuzz")
				source.tests[node.Name.Name] = isTest && node.Recv == nil
			case *ast.BasicLit:
				if text, err := strconv.Unquote(node.Value); err == nil {
					source.literals[strings.ReplaceAll(text, " ", "_")] = true
				}
			}
			return true
		})
	}
	return source
}

var (
	listItem    = regexp.MustCompile(`^ *(?:- |[0-9]+\. )`)
	tableRow    = regexp.MustCompile(`^\| (.*) \|$`)
	tableRule   = regexp.MustCompile(`^\|[-|]+$`)
	sentenceEnd = regexp.MustCompile("[.!?][)*]* +[(*`\"[]*[A-Z`]")
)

// sentences are a page's sentences and table rows, by the heading they stand below. A paragraph or list item is one
// line; the lines above a table's rule are its header.
func (p page) sentences() map[string][]string {
	sections := map[string][]string{}
	section := ""
	for line := range strings.Lines(p.prose()) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "<!--") {
			continue
		}
		if marks, text, ok := strings.Cut(line, " "); ok && strings.Trim(marks, "#") == "" && marks != "" {
			section = text
			continue
		}
		found := sections[section]
		switch row := tableRow.FindStringSubmatch(line); {
		case tableRule.MatchString(line):
			found = found[:len(found)-1]
		case row != nil:
			found = append(found, row[1])
		default:
			line = strings.TrimSpace(listItem.ReplaceAllString(line, ""))
			for end := sentenceEnd.FindStringIndex(line); end != nil; end = sentenceEnd.FindStringIndex(line) {
				cut := end[0] + strings.IndexByte(line[end[0]:], ' ')
				found = append(found, line[:cut])
				line = strings.TrimSpace(line[cut:])
			}
			if line != "" {
				found = append(found, line)
			}
		}
		sections[section] = found
	}
	return sections
}
