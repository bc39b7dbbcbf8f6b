// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The changelog has the form of Keep a Changelog 1.1.0, which hack/release-notes.sh reads.
func TestChangelog(t *testing.T) {
	t.Parallel()
	changelog := read(t, "../CHANGELOG.md")
	var versions []string
	for _, h := range changelog.headings()[1:] {
		switch {
		case h.level == 2 && regexp.MustCompile(`^\[(?:Unreleased|\d+\.\d+\.\d+] - \d{4}-\d\d-\d\d$)`).MatchString(h.text):
			version, _, _ := strings.Cut(strings.TrimPrefix(h.text, "["), "]")
			versions = append(versions, version)
			if !strings.Contains(changelog.text, "\n["+version+"]: https://github.com/istiod-agent/istiod-agent/") {
				t.Errorf("[%s] has no link", version)
			}
		case h.level == 3 && slices.Contains([]string{"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}, h.text):
		default:
			t.Errorf("heading of level %d: %s", h.level, h.text)
		}
	}
	if len(versions) == 0 || versions[0] != "Unreleased" {
		t.Errorf("versions %q, want Unreleased first", versions)
	}
}
