// SPDX-License-Identifier: Apache-2.0

package regular_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/regular"
)

func TestRead(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	at := func(name string) string { return filepath.Join(directory, name) }
	for name, size := range map[string]int64{"fits": 8, "large": 9, "endless": 1 << 40} { // the last is sparse
		must(t, os.WriteFile(at(name), nil, 0o600))
		must(t, os.Truncate(at(name), size))
	}
	must(t, os.Symlink("fits", at("link")))
	must(t, syscall.Mkfifo(at("pipe"), 0o600))

	for name, test := range map[string]struct{ file, err string }{
		"a file of the limit's size": {file: at("fits")},
		"a link":                     {file: at("link")},
		"a file above the limit":     {file: at("large"), err: "expected at most 8 bytes"},
		"a file of a terabyte":       {file: at("endless"), err: "expected at most 8 bytes"},
		"a pipe without a writer":    {file: at("pipe"), err: "expected a regular file"},
		"a directory":                {file: directory, err: "expected a regular file"},
		"a device":                   {file: "/dev/zero", err: "expected a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content, err := regular.Read(test.file, 8)
			switch {
			case test.err == "" && (err != nil || len(content) != 8):
				t.Errorf("got %d bytes, %v", len(content), err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("got error %v, want %q", err, test.err)
			}
		})
	}
	if _, err := regular.Read(at("missing"), 8); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
