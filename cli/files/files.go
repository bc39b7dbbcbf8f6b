// SPDX-License-Identifier: Apache-2.0

// Package files reads the files that a person names on the command line: regular files, standard input, and pipes that
// the shell opened for the program. It also writes files that another program reads.
package files

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/istiod-agent/istiod-agent/internal/regular"
)

// MaxSmall is the size limit, in bytes, of a configuration, certificate or token file.
const MaxSmall = 1 << 20

// Read returns the content of a file of at most limit bytes.
func Read(name string, limit int64) ([]byte, error) {
	if !inherited(name) {
		return regular.Read(name, limit)
	}
	file, err := os.Open(name) //nolint:gosec // the file of the person who runs the command
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return regular.Stream(name, file, limit)
}

// ReadOrStdin is Read, except that the name "-" is stdin. source is the name for messages.
func ReadOrStdin(name string, stdin io.Reader, limit int64) (content []byte, source string, err error) {
	if name != "-" {
		content, err = Read(name, limit)
		return content, name, err
	}
	source = "standard input"
	content, err = regular.Stream(source, stdin, limit)
	return content, source, err
}

// inherited reports whether name is a file descriptor that the program started with, such as the pipe of a shell's <(command).
func inherited(name string) bool {
	return name == "/dev/stdin" || strings.HasPrefix(name, "/dev/fd/") || strings.HasPrefix(name, "/proc/self/fd/")
}

// Replace creates a file, which everybody may read, or replaces it, and creates its directory where there is none. Another
// program sees the old content or the new one: until it is complete, the new one has a name that ends in ".tmp".
func Replace(name string, content []byte) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as the file
		return err
	}
	file, err := os.CreateTemp(dir, ".*.tmp")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close()); err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}
