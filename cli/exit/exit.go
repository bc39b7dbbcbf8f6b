// SPDX-License-Identifier: Apache-2.0

// Package exit says by which code a command ends that has more to say than 0 and 1.
package exit

import "github.com/spf13/cobra"

// The codes besides 0 of the commands that look at clusters and at Vault.
const (
	// Wrong is not as it should be.
	Problem = 1
	// Unknown could not be found out or done, or the flags are wrong.
	Unknown = 2
)

// Error ends a command with a code. One without a cause has said everything already.
type Error struct {
	Code  int
	Cause error
}

// With gives an error a code.
func With(code int, cause error) *Error { return &Error{code, cause} }

func (e *Error) Error() string {
	if e.Cause == nil {
		return ""
	}
	return e.Cause.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// ExitCode is the program's.
func (e *Error) ExitCode() int { return e.Code }

// Usage has a command's wrong flags and arguments end with Unknown.
func Usage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return With(Unknown, err) })
	args := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		err := cmd.ValidateFlagGroups() // flags that exclude each other: cobra's own error would come without a code
		if err == nil && args != nil {
			err = args(cmd, given)
		}
		if err != nil {
			return With(Unknown, err)
		}
		return nil
	}
}
