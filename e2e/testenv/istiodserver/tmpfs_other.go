// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package istiodserver

import "errors"

func isTmpfs(string) bool { return false }

func mountTmpfs(string) error { return errors.ErrUnsupported }

func unmount(string) error { return errors.ErrUnsupported }
