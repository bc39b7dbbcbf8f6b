// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package recording

import (
	"context"
	"errors"
	"os/exec"
)

// Run needs Linux.
func Run(context.Context, int, *exec.Cmd) ([]Event, int, error) {
	return nil, 0, errors.New("a terminal is made on Linux only")
}
