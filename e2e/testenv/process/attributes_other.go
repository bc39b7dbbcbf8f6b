// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package process

import "syscall"

// attributes keep Ctrl-C from the process, which the test ends in order.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
