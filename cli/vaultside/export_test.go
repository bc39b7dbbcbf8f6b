// SPDX-License-Identifier: Apache-2.0

package vaultside

import "io"

// Print is print, for the tests of the commands that it writes.
func (w *Desired) Print(out io.Writer, fromFile bool) error { return w.print(out, fromFile) }
