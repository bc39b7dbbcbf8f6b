// SPDX-License-Identifier: Apache-2.0

// Package regular reads files whose names come from outside the program: only regular ones of bounded size. A named pipe, a
// device or an endless file is an error, and neither blocks the program nor exhausts its memory.
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
	name := file.Name()
	about, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !about.Mode().IsRegular() {
		return nil, fmt.Errorf("reading %s: expected a regular file", name)
	}
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("reading %s: expected at most %d bytes", name, limit)
	}
	return content, nil
}
