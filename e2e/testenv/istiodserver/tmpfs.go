// SPDX-License-Identifier: Apache-2.0

package istiodserver

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// TmpfsDir gives a test an empty folder in memory, as the volume of the CA's
// files is in a Pod. It is gone after the test.
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

// Tmpfs gives an empty folder in memory: one in /dev/shm where that is a tmpfs,
// else a tmpfs of its own, which root may mount.
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
