// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands of docs/verify-release.md fit the files of a release, whose checksums and digests they check for real. What
// needs the network only gets its arguments checked: they are names of files that exist, and images of the release.
func wantVerifiable(t *testing.T, top, place string, images []string) {
	t.Helper()
	page := string(read(t, filepath.Join(root, "docs", "verify-release.md")))
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	for i, part := range strings.Split(page, "\n```") {
		if i%2 == 1 {
			script.WriteString(strings.NewReplacer("VERSION=0.2.0\n", "VERSION="+tag+"\n", "ghcr.io/istiod-agent/", place+"/").Replace(part))
		}
	}
	workflow := regexp.MustCompile(`https://github.com/\$REPOSITORY/(\S+)@refs/tags/v\$VERSION`).FindStringSubmatch(page)
	if workflow == nil {
		t.Fatal("the page names no workflow as the identity")
	}
	read(t, filepath.Join(root, workflow[1]))

	stub, workspace := t.TempDir(), t.TempDir()
	release := filepath.Join(workspace, "release")
	for program, text := range map[string]string{
		"gh":   `[ "$1" != release ] || { mkdir release; cp ` + top + `/dist/* release; rm release/*.tar; touch release/checksums.txt.sigstore.json; }`,
		"git":  `mkdir -p source/dist; cp ` + top + `/dist/checksums.txt source/dist`,
		"make": "", "kubectl": "", "helm": "", "cosign": "",
	} {
		must(t, os.WriteFile(filepath.Join(stub, program), []byte("#!/bin/sh\necho \"${0##*/} $*\" >>"+workspace+"/calls.txt\n"+text+"\n"), 0o700))
	}
	run := exec.CommandContext(t.Context(), "bash", "-c", script.String())
	run.Dir, run.Env = workspace, append(os.Environ(), "PATH="+stub+string(os.PathListSeparator)+os.Getenv("PATH"))
	output, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	calls := string(read(t, filepath.Join(workspace, "calls.txt")))
	for _, file := range regexp.MustCompile(`[\w./-]+\.(?:txt|json|tgz|yaml)(?:\s|$)`).FindAllString(calls, -1) {
		if file = strings.TrimSpace(file); !strings.HasPrefix(file, "istiod-agent/istiod-agent/.github/") {
			read(t, filepath.Join(release, file))
		}
	}
	for line := range strings.Lines(string(read(t, filepath.Join(top, "dist", "images.txt")))) {
		for _, verification := range []string{"cosign verify ", "gh attestation verify oci://"} {
			if !strings.Contains(calls, verification+strings.TrimSpace(line)+" ") {
				t.Errorf("no %s%s in\n%s", verification, line, calls)
			}
		}
	}
	for line := range strings.Lines(string(read(t, filepath.Join(top, "dist", "checksums.txt")))) {
		if file := strings.Fields(line)[1]; !strings.Contains(calls, "gh attestation verify "+file+" ") {
			t.Errorf("no provenance of %s is verified", file)
		}
	}
	attested := regexp.MustCompile(`(?m)^attest .* (\S+@sha256:[0-9a-f]{64})$`).FindAllStringSubmatch(string(read(t, filepath.Join(top, "calls.txt"))), -1)
	if len(attested) == 0 {
		t.Error("the release attaches no SBOM")
	}
	for _, image := range attested {
		if !strings.Contains(calls, "cosign verify-attestation "+image[1]+" --type spdxjson ") {
			t.Errorf("the SBOM of %s is not verified:\n%s", image[1], calls)
		}
	}
	if strings.Contains(string(output), "not in images.txt") || strings.Count(string(output), "verified: ") != len(attested)+len(images) {
		t.Errorf("the page's commands print\n%s", output)
	}
	if traffic := regexp.MustCompile(`--traffic-image (\S+/istiod-agent-traffic:` + regexp.QuoteMeta(tag) + `@sha256:[0-9a-f]{64}) `).FindStringSubmatch(calls); traffic == nil {
		t.Errorf("no digest of the image for verify --traffic in\n%s", calls)
	}
}
