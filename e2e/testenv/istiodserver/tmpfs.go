// SPDX-License-Identifier: Apache-2.0

package istiodserver

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// TmpfsDir returns an empty folder in memory, like the volume of the CA's files in a Pod. It is removed after the test.
func TmpfsDir(t testing.TB) string {
	t.Helper()
	dir, remove, err := Tmpfs()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Tmpfs returns an empty folder in memory: in /dev/shm if that is a tmpfs, else in a tmpfs that it mounts, which needs root.
func Tmpfs() (dir string, remove func() error, err error) {
	if isTmpfs("/dev/shm") {
		dir, err = os.MkdirTemp("/dev/shm", "istiod-agent-cacerts-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	if dir, err = os.MkdirTemp("", "istiod-agent-cacerts-"); err != nil {
		return "", nil, err
	}
	if err := mountTmpfs(dir); err != nil {
		return "", nil, errors.Join(fmt.Errorf("/dev/shm is no tmpfs, and mounting one at %s: %w", dir, err), os.Remove(dir))
	}
	return dir, func() error { return errors.Join(unmount(dir), os.Remove(dir)) }, nil
}
