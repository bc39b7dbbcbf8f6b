// SPDX-License-Identifier: Apache-2.0

// Package regular reads files whose names come from outside the program: only regular files, up to a size limit. A named
// pipe, a device or an endless file is an error; it neither blocks the program nor exhausts its memory.
package regular

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// Read returns the content of a regular file of at most limit bytes. A symbolic link is followed: the kubelet mounts
// ConfigMaps, Secrets and tokens as links.
func Read(name string, limit int64) ([]byte, error) {
	// Without O_NONBLOCK, opening a named pipe blocks until another process writes to it. It has no effect on a regular file.
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the caller decides which names are allowed
	if err != nil {
		return nil, err
	}
	return Content(file, limit)
}

// Content is Read for a file that the caller has opened, with O_NONBLOCK. It closes the file.
func Content(file *os.File, limit int64) ([]byte, error) {
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("reading %s: expected a regular file, got a directory", file.Name())
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("reading %s: expected a regular file, got a device, pipe or socket", file.Name())
	}
	return Stream(file.Name(), file, limit)
}

// Stream returns the content of a stream of at most limit bytes; name is for errors.
func Stream(name string, stream io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(stream, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	case int64(len(content)) > limit:
		return nil, fmt.Errorf("reading %s: expected at most %d bytes", name, limit)
	}
	return content, nil
}
