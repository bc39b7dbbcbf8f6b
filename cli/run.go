// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// Run runs the plugin and returns its exit code. All output, errors included, goes through a terminal.Writer, which escapes
// text of other origin.
func Run(ctx context.Context, arguments []string, in io.Reader, out, errs io.Writer) int {
	stdout, stderr := terminal.NewWriter(out), terminal.NewWriter(errs)
	cmd := NewCommand()
	cmd.SetArgs(arguments)
	cmd.SetIn(in)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if writeErr := stdout.Close(); err == nil {
		err = writeErr
	}
	defer func() { _ = stderr.Close() }()
	if err == nil {
		return 0
	}
	if message := err.Error(); message != "" {
		fmt.Fprintln(stderr, "Error:", message)
	}
	if coded, ok := errors.AsType[*exit.Error](err); ok {
		return coded.Code
	}
	return 1
}
