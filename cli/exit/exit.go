// SPDX-License-Identifier: Apache-2.0

// Package exit defines exit codes.
package exit

import (
	"errors"

	"github.com/spf13/cobra"
)

// The exit codes, besides 0, of the commands that read clusters and Vault.
const (
	// Problem: something is not as it should be.
	Problem = 1
	// codeUnknown: a request failed, or the flags are wrong.
	codeUnknown = 2
)

// Error ends a command with a code. Without a cause it prints nothing.
type Error struct {
	Code  int
	Cause error
}

// With returns an Error.
func With(code int, cause error) *Error { return &Error{code, cause} }

func (e *Error) Error() string {
	if e.Cause == nil {
		return ""
	}
	return e.Cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Result ends a command: with err as codeUnknown unless it has a code, else by what was found.
func Result(err error, unknown, problem bool) error {
	if _, coded := errors.AsType[*Error](err); coded {
		return err
	}
	switch {
	case err != nil:
		return With(codeUnknown, err)
	case unknown:
		return With(codeUnknown, nil)
	case problem:
		return With(Problem, nil)
	}
	return nil
}

// Codes makes a command end with codeUnknown where an error has no code: for wrong flags and arguments too. All else of the command
// must be set before.
func Codes(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return With(codeUnknown, err) })
	args := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		err := cmd.ValidateFlagGroups() // mutually exclusive flags: cobra's own error has no code
		if err == nil && args != nil {
			err = args(cmd, given)
		}
		return Result(err, false, false)
	}
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return Result(run(cmd, args), false, false) }
}
