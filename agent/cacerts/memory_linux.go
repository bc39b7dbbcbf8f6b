// SPDX-License-Identifier: Apache-2.0

package cacerts

import "golang.org/x/sys/unix"

// inMemory returns whether a directory is in a file system that is never written to a disk.
func inMemory(path string) (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return false, err
	}
	return stat.Type == unix.TMPFS_MAGIC || stat.Type == unix.RAMFS_MAGIC, nil
}
