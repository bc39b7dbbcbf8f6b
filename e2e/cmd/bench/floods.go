// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/floods"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istio"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// measureFloods gives how long an admission through the API server takes while strangers flood the replica, in ratio to a
// quiet one: at most twice as long is half the speed or better.
func measureFloods(ctx context.Context) (_ []result, err error) {
	group, err := floods.NewCgroup(floods.Memory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, group.Remove()) }()
	c, err := cluster.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := c.Install(ctx, webhookserver.Options{Before: group.Command()}); err != nil {
		return nil, err
	}
	const namespace = "floods"
	labelled := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{"istiod-agent.io/injection": "enabled"}}}
	if err := c.Create(ctx, labelled); err != nil {
		return nil, err
	}
	istiod, err := istio.Deployment(ctx, namespace, istio.Values(namespace, "1.31.0"))
	if err != nil {
		return nil, err
	}
	var results []result
	for _, flood := range floods.All {
		quiet, err := admissionsTake(ctx, c, istiod)
		if err != nil {
			return nil, err
		}
		stop, err := attack(ctx, flood.Name, floods.TargetOf(c.Webhook.Replicas[0]))
		if err != nil {
			return nil, err
		}
		flooded, err := admissionsTake(ctx, c, istiod)
		stop()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flood.Name, err)
		}
		results = append(results, ratio("an admission amid "+flood.Name+" / a quiet one", flooded, quiet, 2))
	}
	most, err := mostResidentMiB(c.Webhook.Replicas[0].PID())
	return append(results, memory("most resident memory amid floods", most, 240)), err
}

// admissionsTake is the median of a hundred dry runs of istiod's creation, one after the other.
func admissionsTake(ctx context.Context, c *cluster.Cluster, istiod *unstructured.Unstructured) (time.Duration, error) {
	took := make([]time.Duration, 0, 100)
	for range cap(took) {
		start := time.Now()
		if err := c.Create(ctx, istiod.DeepCopy(), ctrlclient.DryRunAll); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// attack floods from a process of its own, of the least priority: attackers have machines of their own, and what they take of
// this one is not to be measured.
func attack(ctx context.Context, name string, target floods.Target) (stop func(), err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, "nice", "-n", "19", program, attacker, name, target.Admission, target.Health, target.Metrics)
	command.Stderr = os.Stderr
	input, err := command.StdinPipe() // its end ends the attack, also when this process is gone
	if err != nil {
		return nil, err
	}
	started, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	if _, err := started.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(err, command.Wait())
	}
	return func() {
		_ = input.Close()
		_ = command.Wait()
	}, nil
}

// attacker is the first argument of such a process.
const attacker = "attack"

// runAttacker floods until its input ends.
func runAttacker(ctx context.Context, arguments []string) error {
	for _, flood := range floods.All {
		if len(arguments) != 4 || flood.Name != arguments[0] {
			continue
		}
		stop := flood.Start(ctx, floods.Target{Admission: arguments[1], Health: arguments[2], Metrics: arguments[3]})
		defer stop()
		fmt.Println()
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	return fmt.Errorf("unknown attack %q", arguments)
}
