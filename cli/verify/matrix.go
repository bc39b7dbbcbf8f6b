// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/cli/verify/traffic"
	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
)

// callAll calls between Pods of every two contexts, and within each context. unknown reports that some pair was not tried, or that
// an object remains in a cluster.
func callAll(ctx context.Context, contexts []contextRoots, options pods.Options, progress *terminal.Progress) (lines []finding, unknown bool) {
	var taking []traffic.Cluster
	for _, c := range contexts {
		if c.err != nil {
			continue
		}
		istiod, image, err := readIstiod(ctx, c.cluster, options)
		if err != nil {
			unknown = true
			lines = append(lines, finding{Context: c.cluster.Context, What: "traffic", Detail: terminal.OneLine(err.Error())})
			continue
		}
		taking = append(taking, traffic.Cluster{Cluster: c.cluster, Istiod: istiod, Image: image})
	}
	matrix := traffic.Run(ctx, taking, options.Timeout, progress)
	found, untried := trafficFindings(taking, matrix)
	return append(lines, found...), unknown || untried
}

func readIstiod(ctx context.Context, cluster *clusters.Cluster, options pods.Options) (istiod traffic.Istiod, image string, err error) {
	pod, err := istiodPod(ctx, cluster)
	if err != nil {
		return istiod, "", err
	}
	var namespace corev1.Namespace
	if err := cluster.Client.Get(ctx, client.ObjectKey{Name: pod.Namespace}, &namespace); err != nil {
		return istiod, "", cluster.Explain("reading istiod's namespace", "get", "namespaces", err)
	}
	return traffic.ReadIstiod(pod, namespace.Labels), options.ImageFor(pod), nil
}

// trafficFindings makes lines of a matrix.
func trafficFindings(taking []traffic.Cluster, matrix *traffic.Matrix) (lines []finding, unknown bool) {
	for i, from := range taking {
		if err := matrix.Errors[i]; err != nil {
			unknown = true
			lines = append(lines, finding{Context: from.Context, What: "traffic", Detail: terminal.OneLine(err.Error())})
		}
		for j, to := range taking {
			line := finding{Context: from.Context, What: "traffic to " + to.Context}
			switch result := matrix.Calls[i][j]; {
			case result.Outcome != "":
				line.OK, line.Detail = result.Outcome == contract.Calls, describe(result, from, to)
			case matrix.Errors[i] != nil || matrix.Errors[j] != nil:
				continue // the error has a line of its own
			default:
				unknown = true
				line.Detail = fmt.Sprintf("is not tried: the networks %q and %q are connected by gateways, which only sidecars and ztunnel can pass; test with workloads that have sidecars",
					from.Istiod.Network, to.Istiod.Network)
			}
			lines = append(lines, line)
		}
	}
	for i, left := range matrix.Left {
		if left != "" {
			unknown = true
			lines = append(lines, finding{Context: taking[i].Context, What: "clean-up", Detail: left})
		}
	}
	return lines, unknown
}

// describe returns the outcome of a pair as text, with the next step.
func describe(result contract.Result, from, to traffic.Cluster) string {
	detail := terminal.OneLine(result.Detail)
	switch result.Outcome {
	case contract.Calls:
		return "calls"
	case contract.Another:
		return "reaches another server: " + detail + "; the Pods of both clusters have the same addresses, or a route leads elsewhere: check the Pods' address ranges and the routes between the clusters"
	case contract.OtherRoot:
		return "is refused: other root: " + detail
	case contract.Unreachable:
		return "does not reach: istiod sends an endpoint, and no connection to it succeeds: " + detail + "; check routes, firewalls and network policies between the Pods"
	case contract.Unknown:
		if from.Context == to.Context {
			return "does not reach: istiod knows no endpoint in its own cluster: " + detail + "; if its MeshConfig has discoverySelectors, they must match the label istiod-agent.io/traffic=true"
		}
		return fmt.Sprintf("does not reach: istiod of %s knows no endpoint in %s; run kubectl istiod-agent join --context=%s --context=%s",
			from.Context, to.Context, shell.Quote(from.Context), shell.Quote(to.Context))
	case contract.Plaintext:
		return "is refused: " + detail
	default:
		return "does not reach: " + detail
	}
}
