// SPDX-License-Identifier: Apache-2.0

package process

import "syscall"

// attributes keep Ctrl-C from the process, which the test ends in order, and make the kernel kill it when the test process
// is gone.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
