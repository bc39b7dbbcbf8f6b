// SPDX-License-Identifier: Apache-2.0

package istiodserver

import "syscall"

// tmpfsMagic is TMPFS_MAGIC of statfs(2).
const tmpfsMagic = 0x01021994

func isTmpfs(dir string) bool {
	var status syscall.Statfs_t
	return syscall.Statfs(dir, &status) == nil && status.Type == tmpfsMagic
}

func mountTmpfs(dir string) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0755,size=1m")
}

func unmount(dir string) error { return syscall.Unmount(dir, 0) }
