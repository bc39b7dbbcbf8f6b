// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package process

import "syscall"

// attributes leave Ctrl-C to who started the process, who ends it in order.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
