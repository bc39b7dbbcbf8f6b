// SPDX-License-Identifier: Apache-2.0

package token

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/istiod-agent/istiod-agent/internal/regular"
)

// Read reads the service account token at path, which must be below root, an absolute path without symbolic links to
// resolve in it. No link, absolute path or .. on the way leads out of root: the kernel resolves the path within it
// (os.Root). Errors name the path, never the content.
func Read(root, path string) (Token, error) {
	below, err := filepath.Rel(root, path)
	if err != nil || !filepath.IsLocal(below) || below == "." {
		return Token{}, fmt.Errorf("token file %s: expected a file below %s, where Kubernetes mounts service account tokens", path, root)
	}
	directory, err := os.OpenRoot(root)
	if err != nil {
		return Token{}, fmt.Errorf("token file %s: %w", path, cause(err))
	}
	defer func() { _ = directory.Close() }()
	// A FIFO would otherwise keep the caller waiting for a writer.
	file, err := directory.OpenFile(below, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Token{}, fmt.Errorf("token file %s: %w", path, cause(err))
	}
	content, err := regular.Content(file, maxSize)
	return parse(path, content, err)
}

// ReadAnywhere reads the service account token at a path that the operator of istiod's Pod has chosen.
func ReadAnywhere(path string) (Token, error) {
	content, err := regular.Read(path, maxSize)
	return parse(path, content, err)
}

func parse(path string, content []byte, err error) (Token, error) {
	if err != nil {
		return Token{}, fmt.Errorf("token file %s: %w", path, cause(err))
	}
	token, err := Parse(content)
	if err != nil {
		return Token{}, fmt.Errorf("token file %s %w", path, err)
	}
	return token, nil
}

// cause leaves out the path that the error's own text repeats.
func cause(err error) error {
	if failed, ok := errors.AsType[*os.PathError](err); ok {
		if strings.Contains(failed.Err.Error(), "escapes") {
			return errors.New("a symbolic link leads out of the directory that it must stay in")
		}
		return failed.Err
	}
	return err
}
