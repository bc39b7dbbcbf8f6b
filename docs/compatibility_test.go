// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const compatibility = "compatibility.md"

// tableRows returns the rows of a section's tables, cell by cell, without their heads.
func tableRows(p page, section string) (rows [][]string) {
	_, text, _ := strings.Cut(p.text, "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	head := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			head = true
		case strings.HasPrefix(line, "|-"):
			head = false
		case !head:
			cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	return rows
}

// The versions on the page are those that the tests run.
func TestTheVersionsAreTheTests(t *testing.T) {
	t.Parallel()
	modules := map[string]string{
		"Kubernetes": "k8s.io/kubernetes v", "etcd": "go.etcd.io/etcd/server/v3 v", "Istio": "istio.io/istio v0.0.0-", "Vault": "github.com/hashicorp/vault v",
		"cert-manager": "github.com/cert-manager/cert-manager v",
	}
	rows := tableRows(read(t, compatibility), "Versions in the tests")
	for _, row := range rows {
		program, versions, file := row[0], row[1], strings.Trim(row[3], "`")
		if program == "OpenBao" {
			if versions != "none" || file != "" {
				t.Error("OpenBao is pinned nowhere")
			}
			continue
		}
		content := read(t, filepath.Join("..", file)).text
		switch module, known := modules[program]; {
		case known && program == "Istio":
			commit, _, _ := strings.Cut(versions, ",")
			if !regexp.MustCompile(regexp.QuoteMeta(module) + `\d{14}-` + commit + `\b`).MatchString(content) {
				t.Errorf("%s pins another commit of Istio than %s", file, commit)
			}
		case known:
			if !strings.Contains(content, module+versions+"\n") && !strings.Contains(content, module+versions+" ") {
				t.Errorf("%s pins another version of %s than %s", file, program, versions)
			}
		case program == "Kubernetes, by kind":
			if want := "kubernetes: [v" + strings.ReplaceAll(versions, ", ", ", v") + "]"; !strings.Contains(content, want) {
				t.Errorf("%s does not hold %s", file, want)
			}
		default:
			t.Errorf("it is not known where %s is pinned", program)
		}
		delete(modules, program)
	}
	if len(modules) > 0 || len(rows) < 7 {
		t.Errorf("%d rows; these are missing: %v", len(rows), modules)
	}
	// What other pages say of Vault.
	for _, row := range rows {
		if row[0] == "Vault" && !strings.Contains(read(t, "vault.md").text, "a real Vault "+row[1]+" ") {
			t.Errorf("vault.md names another version of Vault than %s", row[1])
		}
	}
}

// Who builds the images by these pages gets those that the chart installs.
func TestImagesAreOfTheChartsVersion(t *testing.T) {
	t.Parallel()
	version := regexp.MustCompile(`(?m)^appVersion: (\S+)$`).FindStringSubmatch(read(t, "../charts/istiod-agent/Chart.yaml").text)
	if version == nil {
		t.Fatal("the chart has no appVersion")
	}
	named := regexp.MustCompile(`make (?:image|plugin) VERSION=v([^\s` + "`" + `]+)|dist/istiod-agent(?:-[a-z]+)*-([0-9]\S*)-amd64\.tar`)
	found := 0
	for _, page := range append(pages(t), read(t, "../README.md")) {
		for _, match := range named.FindAllStringSubmatch(page.text, -1) {
			found++
			if match[1]+match[2] != version[1] {
				t.Errorf("%s: %s, and the chart installs %s", page.file, match[0], version[1])
			}
		}
	}
	if found < 5 {
		t.Errorf("found %d commands", found)
	}
}

// Each difference of OpenBao names the file that it was read in, and tests that exist; each case of the tests is a row.
func TestOpenBaoDifferences(t *testing.T) {
	t.Parallel()
	text := read(t, compatibility)
	if !strings.Contains(text.text, "**The real OpenBao was not run.**") {
		t.Error("the page does not say plainly that OpenBao was not run")
	}
	sources, named := map[string]testSource{}, map[string]bool{}
	rows := tableRows(text, "OpenBao")
	for _, row := range rows {
		if len(row) != 4 || !regexp.MustCompile("^`[a-z/_0-9]+\\.go`$").MatchString(row[1]) || row[2] == "" {
			t.Errorf("no file of OpenBao's source, or nothing about the agent: %q", row)
			continue
		}
		tests := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[3], -1)
		if len(tests) == 0 {
			t.Errorf("no test is named for: %s", row[0])
		}
		for _, test := range tests {
			named[test[1]] = true
			checkProof(t, sources, row[0], test[1])
		}
	}
	if len(rows) < 10 {
		t.Errorf("only %d rows", len(rows))
	}
	const cases = "../agent/ca/vault/client/openbao_test.go"
	_, table, _ := strings.Cut(read(t, cases).text, "func TestOpenBaoRefusals(")
	table, _, _ = strings.Cut(table, "\n\t} {\n")
	found := regexp.MustCompile(`(?m)^\t\t"([^"]+)": +\{`).FindAllStringSubmatch(table, -1)
	for _, each := range found {
		if name := "agent/ca/vault/client.TestOpenBaoRefusals/" + strings.ReplaceAll(each[1], " ", "_"); !named[name] {
			t.Errorf("no row names %s", name)
		}
	}
	if len(found) < 5 {
		t.Errorf("only %d cases were found in %s", len(found), cases)
	}
}
