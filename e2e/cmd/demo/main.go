// SPDX-License-Identifier: Apache-2.0

// Command demo shows the product's main job on this machine. It starts an API server and the webhook on loopback, installs
// istiod from Istio's chart, and prints the stored Deployment. Then it sets up a Vault by the guide, runs the containers of
// the stored Pod template as local processes, and shows that the mesh's root is Vault's, that istiod loads a renewed CA, and
// that the CA's key is not in etcd. It exits with 1 and the reason if that fails, and stops everything that it started.
//
// With --keep everything runs until Ctrl-C. hack/demo.sh shows the injected patch before it builds this program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

const (
	namespace = "istio-system"
	istioTag  = "1.31.0"
)

func main() {
	keep := flag.Bool("keep", false, "leave everything running until Ctrl-C")
	output := flag.Uint("meanwhile", 0, "file descriptor of the output of make demo-meanwhile, which is awaited")
	flag.Parse()
	syscall.CloseOnExec(int(*output)) // its reader is this program alone
	// A terminal that is closed sends SIGHUP.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	d := &demo{steps: newSteps(), meanwhile: readMeanwhile(os.NewFile(uintptr(*output), "make demo-meanwhile"))}
	kept := false
	err := d.run(ctx)
	if err == nil && *keep {
		kept = true
		err = d.keep(ctx)
	}
	interrupted := ctx.Err() != nil && !kept
	stopErr := d.stop()
	if interrupted {
		err = errors.New("interrupted; everything that was started is stopped")
	}
	if err = errors.Join(err, stopErr); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", terminal.Plain(err.Error()))
		os.Exit(1)
	}
	if kept {
		fmt.Println("\nEverything is stopped, and no file is left.")
		return
	}
	d.summary.print(d.steps)
	d.steps.next("Next", nextCommands)
}

// demo is what runs, and what it has shown.
type demo struct {
	steps     *steps
	meanwhile *meanwhile
	cluster   *cluster.Cluster
	// istiod is the stored Deployment.
	istiod  *appsv1.Deployment
	mesh    mesh
	summary summary
	// stops end what was started, in the order of the starts.
	stops []stop
}

type stop struct {
	what string
	run  func() error
}

func (d *demo) run(ctx context.Context) error {
	for _, part := range []func(context.Context) error{d.start, d.install, d.show, d.servers, d.trust, d.renewed, d.key} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// started remembers how to stop something.
func (d *demo) started(what string, run func() error) { d.stops = append(d.stops, stop{what, run}) }

// stop stops everything, the last first.
func (d *demo) stop() error {
	if len(d.stops) == 0 {
		return nil
	}
	return d.steps.step("stop everything", func() error {
		var failed []error
		for _, each := range slices.Backward(d.stops) {
			if err := each.run(); err != nil {
				failed = append(failed, fmt.Errorf("stopping %s: %w", each.what, err))
			}
		}
		return errors.Join(failed...)
	})
}

// start starts the API server, and builds this project's programs meanwhile.
func (d *demo) start(ctx context.Context) error {
	d.steps.title("The injection in a real API server")
	return d.steps.step("start etcd and kube-apiserver on loopback; meanwhile go build ./cmd/istiod-agent-webhook ./cmd/istiod-agent", func() error {
		var group errgroup.Group
		group.Go(func() (err error) {
			d.cluster, err = cluster.Start()
			return err
		})
		group.Go(func() error {
			if _, err := built.Webhook(ctx); err != nil {
				return err
			}
			_, err := built.Agent(ctx)
			return err
		})
		err := group.Wait()
		if d.cluster != nil {
			d.started("the webhook, kube-apiserver and etcd", d.cluster.Stop)
		}
		return err
	})
}
