// SPDX-License-Identifier: Apache-2.0

// Command cert-manager is cert-manager's controller and its cainjector, of cert-manager's own packages, in one program:
// its commands are Go modules of their own that no module proxy has. The name by which it is called, that of a link to
// it, says which it is; called by its own, its first argument does.
//
// The controllers are those that Issuers and Certificates need whose issuer is a CA or the certificate itself, set up as
// cert-manager sets them up by default. There is one replica of each, so nobody is elected, and no metrics are served.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/cert-manager/cert-manager/pkg/logs"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	programs := map[string]func(ctx context.Context, kubeconfig string) error{
		"cert-manager-controller": runController,
		"cert-manager-cainjector": runCAInjector,
	}
	arguments := os.Args
	if filepath.Base(arguments[0]) == "cert-manager" {
		arguments = arguments[1:]
	}
	if len(arguments) == 0 || programs[filepath.Base(arguments[0])] == nil {
		fmt.Fprintln(os.Stderr, "name one of its programs, such as cert-manager-controller, by a link or as its first argument")
		os.Exit(2)
	}
	name := filepath.Base(arguments[0])
	flags := flag.NewFlagSet(name, flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "`FILE` that says which cluster (default: the one that this runs in)")
	_ = flags.Parse(arguments[1:]) // ExitOnError

	logs.InitLogs()
	ctrl.SetLogger(logs.Log)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := programs[name](ctx, *kubeconfig); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
}
