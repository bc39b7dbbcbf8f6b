// SPDX-License-Identifier: Apache-2.0

package workflows_test

import (
	"strings"
	"testing"
)

// good is a release that keeps all rules.
const good = `
on: {push: {tags: [v*]}}
permissions: {}
jobs:
  version:
    permissions: {}
    timeout-minutes: 1
    steps:
      - run: hack/release-check.sh "$VERSION"
  build:
    needs: [version]
    permissions:
      contents: read
    timeout-minutes: 10
    steps:
      - uses: actions/checkout@0123456789012345678901234567890123456789 # v1.0.0
        with:
          persist-credentials: false
      - uses: actions/setup-go@0123456789012345678901234567890123456789 # v1.0.0
        with:
          cache: false
      - run: make image
        env:
          VERSION: ${{ github.ref_name }}
      - uses: actions/upload-artifact@0123456789012345678901234567890123456789 # v1.0.0
        with:
          overwrite: true
  publish:
    needs: [build]
    permissions:
      packages: write
    timeout-minutes: 10
    steps:
      - run: sha256sum --check --strict <<<"$CHECKSUMS"
      - run: hack/push.sh
        env:
          TOKEN: ${{ github.token }}
`

func TestRules(t *testing.T) {
	if found := faults([]byte(good)); len(found) > 0 {
		t.Fatalf("a good workflow has the faults %q", found)
	}
	for name, test := range map[string]struct{ old, new, want string }{
		"permissions for all jobs":           {"\npermissions: {}", "\npermissions: {packages: write}", "permissions must be {}"},
		"no permissions":                     {"\npermissions: {}", "", "permissions must be {}"},
		"a job without permissions":          {"    permissions:\n      contents: read\n", "", "job build: it has no permissions"},
		"a job that builds and writes":       {"contents: read", "packages: write", "job build: it can write, and builds: make"},
		"a job that builds and signs":        {"contents: read", "id-token: write", "job build: it can write, and builds: make"},
		"a job that publishes a build":       {"run: hack/push.sh", "run: make push", "job publish: it can write, and builds: make"},
		"a job that compiles and publishes":  {"run: hack/push.sh", "run: cd tools && go run ./push", "job publish: it can write, and builds: go"},
		"unverified checksums":               {"sha256sum --check --strict", "ls", "before it verifies the checksums"},
		"a tag":                              {"actions/checkout@0123456789012345678901234567890123456789 # v1.0.0", "actions/checkout@v1", "is not pinned"},
		"a branch with a version's comment":  {"actions/checkout@0123456789012345678901234567890123456789", "actions/checkout@main", "is not pinned"},
		"a short digest":                     {"setup-go@0123456789012345678901234567890123456789", "setup-go@0123456", "is not pinned"},
		"a digest without version":           {" # v1.0.0\n        with:\n          cache", "\n        with:\n          cache", "is not pinned"},
		"an image":                           {"actions/checkout@0123456789012345678901234567890123456789", "docker://alpine", "is not pinned"},
		"a quoted key":                       {"uses: actions/checkout@0123456789012345678901234567890123456789", `"uses": actions/checkout@v1`, "is not pinned"},
		"a token in .git":                    {"persist-credentials: false", "fetch-depth: 0", "persist-credentials: false"},
		"a shared cache by default":          {"cache: false", "go-version: stable", "cache: false"},
		"a shared cache":                     {"actions/setup-go@", "actions/cache/restore@", "no shared cache"},
		"a name of a tag as a command":       {"run: make image", "run: make image VERSION=${{ github.ref_name }}", "run: holds an expression"},
		"a token for what builds":            {"${{ github.ref_name }}", "${{ github.token }}", "job build: it builds, and gets a credential"},
		"a token for all":                    {"\njobs:", "\nenv:\n  TOKEN: ${{ secrets.GITHUB_TOKEN }}\njobs:", "every job gets a credential"},
		"a build before the check":           {"    needs: [version]\n", "", "job build: it runs before hack/release-check.sh"},
		"no check of the version":            {"hack/release-check.sh", "true #", "job version: it runs before hack/release-check.sh"},
		"a publication before the build":     {"needs: [build]", "needs: [version]", "job publish: it can write, and does not wait for the job build"},
		"an upload for one run":              {"overwrite: true", "overwrite: false", "fails when the job runs again"},
		"no timeout":                         {"    timeout-minutes: 10\n    steps:\n      - uses", "    steps:\n      - uses", "job build: it has no timeout-minutes"},
		"a change from a fork":               {"{push: {tags: [v*]}}", "pull_request_target", "fork's change"},
		"a field of the event":               {"VERSION: ${{ github.ref_name }}", "VERSION: ${{ github.event.release.name }}", "a field of its event"},
		"another's workflow":                 {"    steps:\n      - run: sha256sum", "    uses: a/b/.github/workflows/c.yaml@0123456789012345678901234567890123456789 # v1.0.0\n    steps:\n      - run: sha256sum", "it calls a workflow"},
		"all permissions, in the short form": {"    permissions:\n      contents: read\n", "    permissions: write-all\n", "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Count(good, test.old) == 0 {
				t.Fatalf("%q is not in the good workflow", test.old)
			}
			found := faults([]byte(strings.Replace(good, test.old, test.new, 1)))
			if !strings.Contains(strings.Join(found, "\n"), test.want) {
				t.Errorf("found %q, want %q", found, test.want)
			}
		})
	}
}
