// SPDX-License-Identifier: Apache-2.0

package process

import "syscall"

// attributes leave Ctrl-C to who started the process, who ends it in order, and
// have the kernel kill it when that is gone.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
