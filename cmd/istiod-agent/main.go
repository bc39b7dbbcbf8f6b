// SPDX-License-Identifier: Apache-2.0

// Command istiod-agent runs beside istiod and provides it with an intermediate CA from Vault or cert-manager, in memory only.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// terminationLog is the default terminationMessagePath of a container; the kubelet shows its content in the Pod's status.
const terminationLog = "/dev/termination-log"

func main() {
	if err := confine(); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "istiod-agent: %v\n", err)
		os.Exit(1)
	}
	// A second signal ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	unsetVaultVariables()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, terminationLog))
}

// confine protects the process's memory, which holds the CA key for a while: the process dumps no core, and no other process of
// its user can attach to it or read its memory. The core limit alone does not apply to cores that the kernel pipes to a
// program (core(5)).
func confine() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process's memory unreadable to other processes: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setting the core limit: %w", err)
	}
	return nil
}

// unsetVaultVariables removes the variables of Vault's own programs from the environment: Vault's client reads them, and would
// fail or skip verification, whatever the IssuedCertificate specifies.
func unsetVaultVariables() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "VAULT_") {
			_ = os.Unsetenv(name)
		}
	}
}

// run returns the process's exit code. It prints a failure in one sentence, on standard error and, for kubectl describe, in
// the termination log.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, terminationLog string) int {
	cmd := newCommand() //nolint:contextcheck // cobra passes it on
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		message := fmt.Sprintf("istiod-agent: %s\n", bounded.Plain(err.Error())) // it may quote a server
		_, _ = io.WriteString(stderr, message)
		// Outside a container there is no such file, and none is created. Standard error has the message in any case.
		if log, err := os.OpenFile(terminationLog, os.O_WRONLY|os.O_TRUNC, 0); err == nil { //nolint:gosec // the constant, or a test's
			_, _ = log.WriteString(message)
			_ = log.Close()
		}
		return 1
	}
	return 0
}
