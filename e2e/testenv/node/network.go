// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// addresses of a cluster. Except for the link to this machine they are used in its network namespace only.
type addresses struct {
	// host and node are the two ends of the link between this machine and the node.
	host, node string
	// pods and services are ranges.
	pods, services string
	// api and dns are the addresses of two Services.
	api, dns string
}

func addressesOf(index int) addresses {
	n := strconv.Itoa(index)
	return addresses{
		host: "10.213." + n + ".1", node: "10.213." + n + ".2",
		pods: "10.211." + n + ".0/24", services: "10.212." + n + ".0/24",
		api: "10.212." + n + ".1", dns: "10.212." + n + ".10",
	}
}

// connect creates the cluster's network namespace and the link between it and this machine.
//
// The Pods' network is routed (CNI plugin ptp), not bridged: over a bridge the answers of a Service's Pods bypass
// kube-proxy's rules unless the kernel has br_netfilter.
func (c *Cluster) connect(ctx context.Context) error {
	in := []string{"-n", c.namespace}
	for _, arguments := range [][]string{
		{"netns", "add", c.namespace},
		{"link", "add", c.link(), "type", "veth", "peer", "name", "eth0", "netns", c.namespace},
		{"address", "add", c.address.host + "/30", "dev", c.link()},
		{"link", "set", c.link(), "up"},
		append(in, "link", "set", "lo", "up"),
		append(in, "address", "add", c.address.node+"/30", "dev", "eth0"),
		append(in, "link", "set", "eth0", "up"),
		// A packet to a Service needs a route before kube-proxy's rules apply. No other route leaves the namespace.
		append(in, "route", "add", c.address.services, "dev", "eth0"),
	} {
		if err := ip(ctx, arguments...); err != nil {
			return err
		}
	}
	return c.inside(ctx, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
}

// link is the name of this machine's end of the link to the node.
func (c *Cluster) link() string { return "ia" + strconv.Itoa(c.index) }

// Join connects the Pod networks of two clusters, as in a flat network, and each with the other's API server.
func Join(ctx context.Context, a, b *Cluster) error {
	if err := ip(ctx, "-n", a.namespace, "link", "add", "to-"+b.Name, "type", "veth", "peer", "name", "to-"+a.Name, "netns", b.namespace); err != nil {
		return err
	}
	for _, end := range []struct{ of, other *Cluster }{{a, b}, {b, a}} {
		for _, arguments := range [][]string{
			{"address", "add", between(end.of, end.other) + "/30", "dev", "to-" + end.other.Name},
			{"link", "set", "to-" + end.other.Name, "up"},
			{"route", "add", end.other.address.pods, "via", between(end.other, end.of)},
			{"route", "add", end.other.address.node, "via", between(end.other, end.of)},
		} {
			if err := ip(ctx, append([]string{"-n", end.of.namespace}, arguments...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// between is the address of one end of the link between two clusters.
func between(of, other *Cluster) string {
	return fmt.Sprintf("10.213.%d%d.%d", min(of.index, other.index), max(of.index, other.index), 1+btoi(of.index > other.index))
}

// CutPods makes a cluster drop what it sends to the Pods of another one, until restore is called.
func CutPods(ctx context.Context, from, to *Cluster) (restore func(context.Context) error, err error) {
	return cut(ctx, from, to, to.address.pods, "blackhole")
}

// CutAPIServer makes a cluster answer, to what it would send to the API server of another one, that there is no route, until restore
// is called.
func CutAPIServer(ctx context.Context, from, to *Cluster) (restore func(context.Context) error, err error) {
	return cut(ctx, from, to, to.address.node, "unreachable")
}

func cut(ctx context.Context, from, to *Cluster, destination, kind string) (func(context.Context) error, error) {
	err := ip(ctx, "-n", from.namespace, "route", "replace", kind, destination)
	return func(ctx context.Context) error {
		return ip(ctx, "-n", from.namespace, "route", "replace", destination, "via", between(to, from))
	}, err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// inside runs a command in the cluster's network namespace.
func (c *Cluster) inside(ctx context.Context, program string, arguments ...string) error {
	return run(ctx, "nsenter", append([]string{"--net=/run/netns/" + c.namespace, "--", program}, arguments...)...)
}

func ip(ctx context.Context, arguments ...string) error { return run(ctx, "ip", arguments...) }

func run(ctx context.Context, program string, arguments ...string) error {
	command := exec.CommandContext(ctx, program, arguments...)
	command.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(arguments, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
