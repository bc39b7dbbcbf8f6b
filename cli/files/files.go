// SPDX-License-Identifier: Apache-2.0

// Package files reads the files that a person names on the command line. A name may come from a folder that somebody else
// filled: a device, a named pipe that never answers, or an endless file ends in an error, not in a hang or out of memory.
package files

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// MaxSmall is the most that is read, in bytes, of a file with a configuration, a certificate or a token.
const MaxSmall = 1 << 20

// Read reads a regular file, or what the caller of the program has opened for it (/dev/stdin, /dev/fd/63), of at most so
// many bytes.
func Read(name string, most int64) ([]byte, error) {
	file, err := open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return ReadAll(name, file, most)
}

// ReadAll reads a stream, which must end before it exceeds so many bytes. name is for the error.
func ReadAll(name string, stream io.Reader, most int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(stream, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	case int64(len(content)) > most:
		return nil, fmt.Errorf("reading %s: it is larger than %d KiB, which is the most that is read", name, most>>10)
	}
	return content, nil
}

func open(name string) (*os.File, error) {
	about, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if opened(name) && !about.IsDir() { // such as the pipe that is <(command) in a shell
		return os.Open(name) //nolint:gosec // a file of the person who runs the command
	}
	if err := regular(name, about); err != nil {
		return nil, err
	}
	// A pipe that has taken the file's place since would block without the flag.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // a file of the person who runs the command
	if err != nil {
		return nil, err
	}
	if about, err = file.Stat(); err == nil {
		err = regular(name, about)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// opened says whether a name is that of a file which the program was started with.
func opened(name string) bool {
	return name == "/dev/stdin" || strings.HasPrefix(name, "/dev/fd/") || strings.HasPrefix(name, "/proc/self/fd/")
}

func regular(name string, about os.FileInfo) error {
	if about.Mode().IsRegular() {
		return nil
	}
	kind := "a device, a pipe or a socket"
	if about.IsDir() {
		kind = "a directory"
	}
	return fmt.Errorf("reading %s: expected a regular file, and it is %s", name, kind)
}
