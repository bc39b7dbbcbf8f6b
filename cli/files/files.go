// SPDX-License-Identifier: Apache-2.0

// Package files reads the files that a person names on the command line: regular files, standard input, and pipes that
// the shell opened for the program.
package files

import (
	"io"
	"os"
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
