// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

const (
	contexts = 100
	// mostSeconds and mostMiB bound a command for that many contexts.
	mostSeconds, mostMiB = 10, 200
)

// measureContexts runs the plugin, as it is shipped, for many contexts. All are one API server, which therefore answers as many
// requests as that many API servers; each istiod reports as many remote clusters.
func measureContexts(ctx context.Context) (results []result, err error) {
	program, err := built.Plugin(ctx)
	if err != nil {
		return nil, err
	}
	c, err := cluster.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := c.Install(ctx, webhookserver.Options{Values: helm.Values{"clusterName": "cluster-1"}}); err != nil {
		return nil, err
	}
	if err := joined(ctx, c); err != nil {
		return nil, fmt.Errorf("filling the cluster: %w", err)
	}
	dir, err := os.MkdirTemp("", "istiod-agent-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	files, flags := map[string]string{}, []string{}
	for i := range contexts { // each has a user of its own, and so a connection of its own
		name := fmt.Sprintf("cluster-%d", i+1)
		if files[name], err = c.Plane.Kubeconfig(name, "system:masters"); err != nil {
			return nil, err
		}
		flags = append(flags, "--context="+name)
	}
	kubeconfig := filepath.Join(dir, "config")
	if err := plugin.Kubeconfig(kubeconfig, files); err != nil {
		return nil, err
	}
	for _, command := range []string{"status", "check"} {
		run := exec.CommandContext(ctx, program, append([]string{command, "--kubeconfig", kubeconfig}, flags...)...)
		var output bytes.Buffer
		run.Stdout, run.Stderr = &output, &output
		start := time.Now()
		highest, err := runMeasured(run)
		took := time.Since(start).Seconds()
		if code := run.ProcessState.ExitCode(); code != 0 && code != 1 { // 1: the sample has problems
			return nil, fmt.Errorf("%s: %w:\n%.2000s", command, err, output.String())
		}
		what := fmt.Sprintf("%s of %d contexts", command, contexts)
		results = append(results,
			result{
				measure: what, found: took, limit: mostSeconds, value: fmt.Sprintf("%.1f s", took), unit: " s",
				how: fmt.Sprintf("%.1f s of a processor, %d bytes of output", (run.ProcessState.UserTime() + run.ProcessState.SystemTime()).Seconds(), output.Len()),
			},
			memory(what+", resident memory at most", highest, mostMiB))
	}
	return results, nil
}

// runMeasured runs a command, and returns the most resident memory that it had, in MiB. The rusage of an ended process is no
// help: it includes the memory of the process that started it.
func runMeasured(run *exec.Cmd) (highest float64, err error) {
	if err := run.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			return highest, err
		case <-tick.C:
			if now, err := mostResidentMiB(run.Process.Pid); err == nil { // it may have ended
				highest = max(highest, now)
			}
		}
	}
}

// joined creates an istiod of two replicas with its VirtualMesh, and reports for each as its agent does in a mesh of that many
// clusters.
func joined(ctx context.Context, c *cluster.Cluster) error {
	const namespaceName = "istio-system"
	name := "istiod-istio-system-cluster-1"
	sample, err := sampleVirtualMesh()
	if err != nil {
		return err
	}
	meshes, remote := []any{}, []any{}
	for i := range contexts {
		meshes = append(meshes, map[string]any{"name": fmt.Sprintf("istiod-istio-system-cluster-%d", i+1)})
		if i > 0 {
			remote = append(remote, map[string]any{"name": fmt.Sprintf("cluster-%d", i+1), "state": "Synced"})
		}
	}
	virtualMesh := sample.DeepCopy()
	if err := unstructured.SetNestedSlice(virtualMesh.Object, meshes, "spec", "meshes"); err != nil {
		return err
	}
	objects := []ctrlclient.Object{namespace(namespaceName), namespace("gloo-mesh"), serviceAccount(namespaceName, "istiod"), virtualMesh, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "certificates.mesh.gloo.solo.io/v1", "kind": "IssuedCertificate",
		"metadata": map[string]any{"name": name, "namespace": namespaceName},
		"spec":     map[string]any{"hosts": []any{"spiffe://cluster.local/ns/istio-system/sa/istiod"}},
	}}}
	for i := range replicasOfIstiod {
		objects = append(objects, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: istiodPod(i), Namespace: namespaceName, Labels: map[string]string{"app": "istiod"},
				Annotations: map[string]string{"istiod-agent.io/inject": "false"}, // for the guard: it stands for an injected one
			},
			Spec: corev1.PodSpec{ServiceAccountName: "istiod", Containers: []corev1.Container{{Name: "discovery", Image: "a"}, {Name: "istiod-agent", Image: "b"}}},
		})
	}
	if err := create(ctx, c, objects...); err != nil {
		return err
	}
	for i := range replicasOfIstiod {
		entry := agentReport(istiodPod(i))
		entry["remoteClusters"] = map[string]any{"count": int64(len(remote)), "clusters": remote}
		if err := applyReport(ctx, c, namespaceName, name, entry); err != nil {
			return err
		}
	}
	return nil
}
