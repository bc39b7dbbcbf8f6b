// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

const (
	// catchUp is the bound of a cold start. The benchmark waits longer, to show by how much a slower one exceeds it.
	catchUp, patience = time.Minute, 10 * time.Minute
	// quiet is how long nothing changes.
	quiet = 5 * time.Minute
	// most is how much memory the program may take, in MiB.
	most = 150
)

// measureControllers starts the program, as it is shipped, before a populated API server: once with everything to do,
// and once with nothing.
func measureControllers(ctx context.Context) (_ []result, err error) {
	c, err := cluster.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := c.Install(ctx, webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}); err != nil {
		return nil, err
	}
	if err := c.Webhook.StopReplicas(); err != nil {
		return nil, err
	}
	if err := populate(ctx, c); err != nil {
		return nil, fmt.Errorf("filling the cluster: %w", err)
	}

	log := &counter{plane: c.Plane}
	if _, _, err := log.since(); err != nil {
		return nil, err
	}
	start := time.Now()
	replica, err := c.Webhook.Scale(ctx)
	if err != nil {
		return nil, err
	}
	if err := until(ctx, "every istiod has its IssuedCertificate and the agent, and every VirtualMesh its status", func(ctx context.Context) error {
		return caughtUp(ctx, c, "")
	}); err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	worked, err := processorTime(replica.PID())
	if err != nil {
		return nil, err
	}
	writes, _, err := log.since()
	if err != nil {
		return nil, err
	}
	fmt.Printf("  caught up after %.1f s, with %s\n", took, writes)
	results := []result{{
		measure: "the controllers catch up from a cold start", found: took, limit: catchUp.Seconds(),
		value: fmt.Sprintf("%.1f s", took), unit: " s", how: fmt.Sprintf("%d writes, %.1f s of a processor", writes.total(), worked.Seconds()),
	}}

	start = time.Now()
	if err := report(ctx, c); err != nil {
		return nil, fmt.Errorf("reporting as the agents do: %w", err)
	}
	if err := until(ctx, "the status of every VirtualMesh has the agents' reports", func(ctx context.Context) error {
		return caughtUp(ctx, c, "FINISHED")
	}); err != nil {
		return nil, err
	}
	took = time.Since(start).Seconds()
	if writes, _, err = log.since(); err != nil {
		return nil, err
	}
	fmt.Printf("  every agent's report was passed on after %.1f s, with %s\n", took, writes)
	results = append(results, result{measure: "600 reports of agents are passed on", value: fmt.Sprintf("%.1f s", took), how: fmt.Sprintf("%d writes", writes.total())})
	highest, err := mostResidentMiB(replica.PID())
	if err != nil {
		return nil, err
	}
	results = append(results, memory("resident memory, at most, from a cold start until all is reported", highest, most))

	again, err := measureQuiet(ctx, c, log)
	return append(results, again...), err
}

// measureQuiet starts the program again, with everything there already, and leaves it alone.
func measureQuiet(ctx context.Context, c *cluster.Cluster, log *counter) ([]result, error) {
	if err := c.Webhook.StopReplicas(); err != nil {
		return nil, err
	}
	if _, _, err := log.since(); err != nil {
		return nil, err
	}
	start := time.Now()
	replica, err := c.Webhook.Scale(ctx)
	if err != nil {
		return nil, err
	}
	if err := until(ctx, "every controller has looked at everything", func(ctx context.Context) error { return lookedAtAll(ctx, replica) }); err != nil {
		return nil, err
	}
	took := time.Since(start).Seconds()
	settledAt, err := settled(ctx, replica.PID())
	if err != nil {
		return nil, err
	}
	atStart, electionAtStart, err := log.since()
	if err != nil {
		return nil, err
	}
	fmt.Printf("  started again, and looked at all after %.1f s, with %s; now nothing changes for %s ...\n", took, atStart, quiet)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(quiet):
	}
	highest, err := mostResidentMiB(replica.PID())
	if err != nil {
		return nil, err
	}
	resident, err := residentMiB(replica.PID())
	if err != nil {
		return nil, err
	}
	inQuiet, election, err := log.since()
	if err != nil {
		return nil, err
	}
	return []result{
		{measure: "a cold start with everything there already", value: fmt.Sprintf("%.1f s", took)},
		{measure: "its writes to the API server", found: float64(atStart.total()), none: true, value: fmt.Sprint(atStart.total()), how: fmt.Sprintf("%s; besides, %d of the leader's election", atStart, electionAtStart)},
		{measure: "writes in five minutes in which nothing changes", found: float64(inQuiet.total()), none: true, value: fmt.Sprint(inQuiet.total()), how: fmt.Sprintf("%s; besides, %d of the leader's election", inQuiet, election)},
		memory("resident memory, at most, of this start and those minutes", highest, most),
		memory("resident memory once it has started", settledAt, most),
		memory("resident memory after those minutes", resident, most),
	}, nil
}

// until waits for a condition for as long as is worth it, and asks no more often than once a second: what asks takes
// from the same two cores.
func until(ctx context.Context, what string, condition func(context.Context) error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, time.Second, patience, true, func(ctx context.Context) (bool, error) {
		last = condition(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s: still not so after %s: %w", what, patience, last)
	}
	return nil
}

// caughtUp wants a status of every VirtualMesh, with the certificates' state of its istiod, if one is given, and of
// every istiod its IssuedCertificate and the agent.
func caughtUp(ctx context.Context, c *cluster.Cluster, state string) error {
	made, err := list(ctx, c, "certificates.mesh.gloo.solo.io/v1", "IssuedCertificate", ctrlclient.MatchingLabels{"app.kubernetes.io/managed-by": webhookserver.Name})
	if err != nil || len(made) != istiods {
		return fmt.Errorf("%d IssuedCertificates: %w", len(made), err)
	}
	said, err := list(ctx, c, "networking.mesh.gloo.solo.io/v1", "VirtualMesh")
	if err != nil || len(said) != virtualMeshes {
		return fmt.Errorf("%d VirtualMeshes: %w", len(said), err)
	}
	accepted, reported := 0, 0
	for i := range said {
		if state, _, _ := unstructured.NestedString(said[i].Object, "status", "state"); state == "ACCEPTED" {
			accepted++
		}
		meshes, _, _ := unstructured.NestedMap(said[i].Object, "status", "meshes")
		for _, each := range meshes {
			if found, _, _ := unstructured.NestedString(each.(map[string]any), "certificateState"); found != "" && found == state {
				reported++
			}
		}
	}
	if accepted != virtualMeshes || state != "" && reported != istiods {
		return fmt.Errorf("%d VirtualMeshes have a status, %d of their istiods are %s", accepted, reported, state)
	}
	if state != "" { // a directive's status has its action on a report, or the reason for none
		directives, err := list(ctx, c, "certificates.mesh.gloo.solo.io/v1", "PodBounceDirective")
		if err != nil {
			return err
		}
		answered := 0
		for i := range directives {
			if status, _, _ := unstructured.NestedMap(directives[i].Object, "status"); len(status) > 0 {
				answered++
			}
		}
		if answered != istiods {
			return fmt.Errorf("%d of %d PodBounceDirectives have a status", answered, len(directives))
		}
	}
	running, err := list(ctx, c, "apps/v1", "Deployment", ctrlclient.MatchingLabels{"app": "istiod"})
	if err != nil {
		return err
	}
	injected := 0
	for i := range running {
		if digest, _, _ := unstructured.NestedString(running[i].Object, "spec", "template", "metadata", "annotations", "istiod-agent.io/injected"); digest != "" {
			injected++
		}
	}
	if injected != istiods {
		return fmt.Errorf("%d istiods have the agent", injected)
	}
	return nil
}

func list(ctx context.Context, c *cluster.Cluster, version, kind string, options ...ctrlclient.ListOption) ([]unstructured.Unstructured, error) {
	all := &unstructured.UnstructuredList{}
	all.SetAPIVersion(version)
	all.SetKind(kind + "List")
	err := c.List(ctx, all, options...)
	return all.Items, err
}

// report writes what the agents of all istiods would, each as the manager that it is.
func report(ctx context.Context, c *cluster.Cluster) error {
	return each(ctx, istiods*replicasOfIstiod, func(ctx context.Context, i int) error {
		pod, of := istiodPod(i%replicasOfIstiod), i/replicasOfIstiod
		return applyReport(ctx, c, tenant(of), mesh(of, 1), agentReport(pod))
	})
}

// agentReport is the entry of an agent in the status.
func agentReport(pod string) map[string]any {
	return map[string]any{
		"pod": pod, "serialNumber": "1f:9a:" + strings.Repeat("0c:", 17) + "77", "issuer": "CN=my-org", "key": "RSA 4096",
		"notBefore": "2026-11-01T00:00:00Z", "notAfter": "2027-11-01T00:00:00Z", "renewAt": "2027-09-25T00:00:00Z", "confirmed": true,
		"rootFingerprint": strings.Repeat("ab", 32), "trustedRoots": []any{strings.Repeat("ab", 32)},
	}
}

// applyReport writes an agent's entry as the agent does.
func applyReport(ctx context.Context, c *cluster.Cluster, namespace, name string, entry map[string]any) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
		"metadata": map[string]any{"name": name, "namespace": namespace},
		"status":   map[string]any{"observedGeneration": int64(1), "state": "FINISHED", "certificates": []any{entry}},
	}}
	owner := ctrlclient.FieldOwner(fmt.Sprint("istiod-agent/", entry["pod"]))
	return c.Status().Apply(ctx, ctrlclient.ApplyConfigurationFromUnstructured(object), owner, ctrlclient.ForceOwnership)
}

// lookedAtAll wants each controller to have reconciled each of its objects, and to have nothing left to do.
func lookedAtAll(ctx context.Context, replica *webhookserver.Replica) error {
	for name, least := range map[string]float64{"meshes": virtualMeshes, "istiods": istiods, "reports": issuedCertificates} {
		done, _, err := replica.Sum(ctx, fmt.Sprintf("controller_runtime_reconcile_total{controller=%q", name))
		if err != nil {
			return err
		}
		if done < least {
			return fmt.Errorf("controller %s has looked at %g of %g", name, done, least)
		}
	}
	for _, series := range []string{"workqueue_depth{", "controller_runtime_active_workers{"} {
		if left, _, err := replica.Sum(ctx, series); err != nil || left != 0 {
			return fmt.Errorf("%s}: %g: %w", series, left, err)
		}
	}
	return nil
}
