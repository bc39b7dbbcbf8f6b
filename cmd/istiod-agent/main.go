// SPDX-License-Identifier: Apache-2.0

// Command istiod-agent runs beside istiod and gives it an intermediate CA that comes from Vault and lives only in memory.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/istiod-agent/istiod-agent/internal/bounded"
)

// terminationLog is where the kubelet reads a container's last words from
// (a container's terminationMessagePath, here its default).
const terminationLog = "/dev/termination-log"

func main() {
	if err := confine(); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "istiod-agent: %v\n", err)
		os.Exit(1)
	}
	// The second signal ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	forgetVault()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, terminationLog))
}

// forgetVault takes the variables of Vault's own programs out of the environment: Vault's client reads them, and
// fails or skips verification by them, whatever the IssuedCertificate says.
func forgetVault() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "VAULT_") {
			_ = os.Unsetenv(name)
		}
	}
}

// run gives the process's exit code. A failure is told in one sentence, on standard error
// and, for kubectl describe, in the termination log.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, terminationLog string) int {
	cmd := newCommand() //nolint:contextcheck // cobra hands it on
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		message := fmt.Sprintf("istiod-agent: %s\n", bounded.Plain(err.Error())) // it may quote others
		_, _ = io.WriteString(stderr, message)
		leaveLastWords(terminationLog, message)
		return 1
	}
	return 0
}

// leaveLastWords writes only to a file that is there: outside a container there is none, and none is made.
// It is best effort, since standard error has the message already.
func leaveLastWords(path, message string) {
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0) //nolint:gosec // the path is terminationLog, or a test's
	if err != nil {
		return
	}
	defer func() { _ = log.Close() }()
	_, _ = log.WriteString(message)
}
