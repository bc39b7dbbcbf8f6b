// SPDX-License-Identifier: Apache-2.0

package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	for _, err := range []error{
		os.WriteFile(file, []byte("12345"), 0o600), os.Symlink(file, link),
		syscall.Mkfifo(pipe, 0o600), os.Symlink(pipe, link+"-pipe"), os.Symlink("/dev/zero", link+"-zero"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		file      string
		most      int64
		want, err string
	}{
		"a file":                 {file, 5, "12345", ""},
		"a link":                 {link, 5, "12345", ""},
		"a file that is larger":  {file, 4, "", "expected at most 4 bytes"},
		"none":                   {file + "-gone", 5, "", "no such file"},
		"a directory":            {dir, 5, "", "a directory"},
		"a pipe without an end":  {pipe, 5, "", "expected a regular file"},
		"a link to it":           {link + "-pipe", 5, "", "expected a regular file"},
		"an endless device":      {"/dev/zero", 5, "", "expected a regular file"},
		"a link to a device":     {link + "-zero", 5, "", "expected a regular file"},
		"a descriptor, not open": {"/dev/fd/987654", 5, "", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Read(test.file, test.most)
			if string(got) != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// A shell's <(command) is a pipe that the shell has opened.
func TestReadDescriptor(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	_, _ = writer.WriteString("12345")
	_ = writer.Close()
	if got, err := Read(fmt.Sprintf("/dev/fd/%d", reader.Fd()), 5); string(got) != "12345" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Read(fmt.Sprintf("/dev/fd/%d", zero.Fd()), 5); err == nil || !strings.Contains(err.Error(), "expected at most 5 bytes") {
		t.Errorf("an endless one: %v", err)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	file := filepath.Join(dir, "file.json")
	for _, content := range []string{"old, and longer", "new"} {
		if err := Replace(file, []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != content {
			t.Errorf("got %q, %v", got, err)
		}
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	// A link is replaced, not followed.
	kept := filepath.Join(dir, "kept")
	for _, err := range []error{os.WriteFile(kept, []byte("kept"), 0o600), os.Symlink(kept, filepath.Join(dir, "link")), Replace(filepath.Join(dir, "link"), []byte("new"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(kept); string(got) != "kept" {
		t.Errorf("the link's target: %q, %v", got, err)
	}

	// A failure leaves nothing.
	if err := os.Mkdir(filepath.Join(dir, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(dir, "full"), nil); err == nil {
		t.Error("a directory is replaced by a file")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".*.tmp"))
	if len(left)+len(hidden) > 0 || err != nil {
		t.Errorf("left: %q, %v", append(left, hidden...), err)
	}
}
