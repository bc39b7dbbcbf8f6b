// SPDX-License-Identifier: Apache-2.0

package pages

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/injected"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// order of the pages whose commands run here, on one cluster. The README installs everything.
var order = []string{
	"README.md", "charts/istiod-agent/README.md", "docs/virtual-mesh.md", "docs/install.md", "docs/upgrade.md", "docs/agent.md", "docs/troubleshooting.md", "docs/reasons.md", "docs/api.md", "docs/restarts.md",
	"docs/platforms.md", "docs/security.md", "docs/gitops.md", "docs/command-line.md", "docs/multicluster.md", "docs/monitoring.md", "docs/uninstall.md",
	"CONTRIBUTING.md", "e2e/README.md",
}

// The commands of the README lead from an empty cluster to an injected istiod, in their order, and those of the guides work
// on that cluster. A command runs once, however many pages have it.
func TestPages(t *testing.T) {
	pages, s := readPages(t), newShell(t)
	used, ran := map[string]bool{}, map[string]bool{}
	for _, file := range order {
		t.Run(file, func(t *testing.T) {
			for _, b := range pages[file] {
				key := file + ": " + b.name
				if exceptBlocks[key] != "" {
					used[key] = true
					continue
				}
				for _, command := range commands(b.text) {
					text := plain(command)
					if exceptCommands[text] != "" {
						used[text] = true
						continue
					}
					if !ran[text] && !s.try(t, key, command) {
						break
					}
					ran[text] = true
				}
				if key == "README.md: Installation in short 2" {
					wantInstalled(t)
				}
			}
		})
	}
	for _, exceptions := range []map[string]string{exceptBlocks, exceptCommands} {
		for name := range exceptions {
			if !used[name] {
				t.Errorf("no page has %q any more", name)
			}
		}
	}
}

// try runs a page's command, with what happens in a cluster before and after it.
func (s *shell) try(t *testing.T, key, command string) bool {
	t.Helper()
	switch {
	case strings.HasPrefix(command, "make "):
		return wantTargets(t, key, command)
	case strings.HasPrefix(command, "kind load image-archive "): // `make kind-up` loads the images into a cluster of kind
		return wantArchive(t, key, command)
	case strings.HasPrefix(command, "kubectl rollout status "):
		rolledOut(t)
	}
	if strings.HasPrefix(command, "kubectl create deployment istiod ") { // where none is yet
		command = strings.ReplaceAll(command, "-n istio-system", "-n "+shared.Namespace(t, true))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	output, err := s.run(ctx, command)
	t.Logf("%s: %s\n%.400s", key, plain(command), output)
	exists := strings.HasPrefix(command, "kubectl create namespace ") && strings.Contains(output, "AlreadyExists")
	if err != nil && !exists {
		t.Errorf("%s: %.2000s", key, err)
		return false
	}
	switch {
	case strings.HasPrefix(command, "helm install istiod-agent "):
		must(t, shared.Install(t.Context(), webhookserver.Options{Installed: true}))
	case strings.Contains(command, "istiod-agent.io/injection-"): // the other pages' namespace is labelled
		_, err = s.run(ctx, "kubectl label namespace istio-system istiod-agent.io/injection=enabled")
		must(t, err)
	case strings.Contains(command, "istiod-agent.io/inject=false"):
		_, err = s.run(ctx, "kubectl annotate -n istio-system deployment istiod istiod-agent.io/inject-")
		must(t, err)
	}
	return true
}

// wantTargets requires that make has the targets of a command.
func wantTargets(t *testing.T, key, command string) bool {
	t.Helper()
	text := makefile(t)
	for _, target := range strings.Fields(plain(command))[1:] {
		if !strings.Contains(target, "=") && !regexp.MustCompile(`(?m)^(?:\S+ )*`+regexp.QuoteMeta(target)+`(?: \S+)*:`).MatchString(text) {
			t.Errorf("%s: make has no target %s", key, target)
			return false
		}
	}
	return true
}

// wantArchive requires that `make image` writes the archive of a command, for the chart's version.
func wantArchive(t *testing.T, key, command string) bool {
	t.Helper()
	image := regexp.MustCompile(` dist/(\S+)-0\.1\.0-amd64\.tar$`).FindStringSubmatch(plain(command))
	list := regexp.MustCompile(`(?m)^IMAGES := (.*)$`).FindStringSubmatch(makefile(t))
	if image == nil || list == nil || !slices.Contains(strings.Fields(list[1]), image[1]) {
		t.Errorf("%s: no image of the Makefile is in %s", key, command)
		return false
	}
	return true
}

func makefile(t *testing.T) string {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "Makefile"))
	must(t, err)
	return string(content)
}

// rolledOut does what the Deployment controller does once all Pods are ready.
func rolledOut(t *testing.T) {
	t.Helper()
	var deployments appsv1.DeploymentList
	must(t, shared.List(t.Context(), &deployments))
	for i := range deployments.Items {
		deployment := &deployments.Items[i]
		replicas := *deployment.Spec.Replicas
		deployment.Status = appsv1.DeploymentStatus{
			ObservedGeneration: deployment.Generation, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas,
		}
		must(t, shared.Status().Update(t.Context(), deployment))
	}
}

// wantInstalled requires an istiod with the agent, and its IssuedCertificate.
func wantInstalled(t *testing.T) {
	t.Helper()
	written, err := istio.Deployment(t.Context(), "istio-system", istio.Values("istio-system", istioVersion))
	must(t, err)
	without, stored := shared.Without(t, written), shared.Stored(t, "istio-system", "istiod")
	for _, point := range injected.Missing(injected.Check(without, &stored.Spec.Template, injected.Default(shared.Webhook.AgentImage()))) {
		t.Errorf("%s: %v", point.Name, point.Err)
	}
}

// Each page's commands run in a test.
func TestEveryPageIsRun(t *testing.T) {
	root, err := built.Root()
	must(t, err)
	for file, found := range readPages(t) {
		test, named := elsewhere[file]
		switch {
		case len(found) > 0 && !named && !slices.Contains(order, file):
			t.Errorf("%s has %d blocks of commands, and no test runs them: add the page to order, or its test to elsewhere", file, len(found))
		case len(found) == 0 && (named || slices.Contains(order, file)):
			t.Errorf("%s has no commands", file)
		case named:
			folder, name, _ := strings.Cut(test, ".")
			sources, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
			must(t, err)
			if !slices.ContainsFunc(sources, func(source string) bool {
				content, err := os.ReadFile(source)
				must(t, err)
				return strings.Contains(string(content), "\nfunc "+name+"(t *testing.T)")
			}) {
				t.Errorf("%s: there is no test %s", file, test)
			}
		}
	}
}

// The tests that the exceptions name exist.
func TestExceptions(t *testing.T) {
	root, err := built.Root()
	must(t, err)
	for _, exceptions := range []map[string]string{exceptBlocks, exceptCommands} {
		for name, reason := range exceptions {
			for _, folder := range regexp.MustCompile(`(?:e2e|tools)/[a-z/]+[a-z]`).FindAllString(reason, -1) {
				if _, err := os.Stat(filepath.Join(root, folder)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

func TestBlocks(t *testing.T) {
	found, err := blocks("# A\n```\nkubectl a \\\n  b   # why\n\nmake c\ncat <<EOF\nx\nEOF\n```\n```yaml\nd: 1\n```\n## B\n- item\n\n  ```\n  helm e\n  ```\n```\n$ kubectl f\ng\n```\n```\n+--+\n```\n")
	must(t, err)
	var got []string
	for _, b := range found {
		for _, command := range commands(b.text) {
			got = append(got, b.name+": "+plain(command))
		}
	}
	if want := []string{"A 1: kubectl a b", "A 1: make c", "A 1: cat <<EOF\nx\nEOF", "B 1: helm e"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := blocks("```\nkubectl\n"); err == nil {
		t.Error("a block without an end is accepted")
	}
}

// readPages returns the blocks of each page in the repository by its path.
func readPages(t *testing.T) map[string][]block {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	pages := map[string][]block{}
	for _, pattern := range []string{"*.md", "docs/*.md", "charts/istiod-agent/*.md", "e2e/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		must(t, err)
		for _, file := range files {
			content, err := os.ReadFile(file)
			must(t, err)
			name, err := filepath.Rel(root, file)
			must(t, err)
			if pages[filepath.ToSlash(name)], err = blocks(string(content)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if len(pages) < 20 {
		t.Fatalf("only %d pages were found: %q", len(pages), slices.Sorted(maps.Keys(pages)))
	}
	return pages
}
