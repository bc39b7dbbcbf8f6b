// SPDX-License-Identifier: Apache-2.0

// Command istiod-agent runs beside istiod and gives it an intermediate CA that comes from Vault and lives only in memory.
package main

import (
	"fmt"
	"io"
	"os"
)

// terminationLog is where the kubelet reads a container's last words from
// (a container's terminationMessagePath, here its default).
const terminationLog = "/dev/termination-log"

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, terminationLog))
}

// run gives the process's exit code. A failure is told in one sentence, on standard error
// and, for kubectl describe, in the termination log.
func run(args []string, stdout, stderr io.Writer, terminationLog string) int {
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.Execute(); err != nil {
		message := fmt.Sprintf("istiod-agent: %v\n", err)
		_, _ = io.WriteString(stderr, message)
		leaveLastWords(terminationLog, message)
		return 1
	}
	return 0
}

// leaveLastWords writes only to a file that is there: outside a container there is none, and none is made.
// It is best effort, since standard error has the message already.
func leaveLastWords(path, message string) {
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return
	}
	defer func() { _ = log.Close() }()
	_, _ = log.WriteString(message)
}
