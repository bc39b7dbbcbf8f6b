// SPDX-License-Identifier: Apache-2.0

// Package node starts whole Kubernetes clusters of one node each: control plane, kubelet, containerd and kube-proxy run as
// processes of this machine, in a network namespace for each cluster, so that several can use the standard ports. It
// needs Linux and root. Stop removes processes, containers, mounts, cgroups, networks and files.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// MaxClusters is the largest number of clusters at a time.
const MaxClusters = 9

// startTimeout is the time until a cluster's node must be ready.
const startTimeout = 3 * time.Minute

// Cluster is a running cluster.
type Cluster struct {
	// Name of the cluster, its context and its node: cluster-1.
	Name string
	// Kubeconfig is the path of an administrator's kubeconfig, with one context of the cluster's name.
	Kubeconfig string
	// Config and Client have an administrator's rights.
	Config *rest.Config
	Client kubernetes.Interface

	index     int
	dir       string // files on disk
	run       string // sockets and mounts, below /run: a short path, empty after a reboot
	namespace string // name of the network namespace
	programs  built.Node
	address   addresses
	pki       *pki
	processes map[string]*process.Process
	lock      *os.File // reserves the number for this process; nil without the reservation
	out       io.Writer
}

// Start starts the cluster with a number from 1 to MaxClusters below dir, and returns once Pods can run in it. It removes
// the remains of an earlier cluster with that number first. The caller must call Stop, also after an error. Progress is
// written to out.
func Start(ctx context.Context, index int, dir string, out io.Writer) (*Cluster, error) {
	c, err := prepare(index, dir, out) //nolint:contextcheck // the removal must not be interrupted
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"its network", c.connect},
		{"its control plane", c.startControlPlane},
		{"its container runtime", c.startRuntime},
		{"its images", c.loadImages},
		{"its node", c.startNode},
		{"its name server", c.startDNS},
	} {
		begin := time.Now()
		if err := step.do(ctx); err != nil {
			return c, fmt.Errorf("%s: starting %s: %w", c.Name, step.name, err)
		}
		c.logf("%s (%s)", step.name, time.Since(begin).Round(100*time.Millisecond))
	}
	return c, nil
}

func newCluster(index int, dir string) *Cluster {
	clusterName := "cluster-" + strconv.Itoa(index)
	return &Cluster{
		Name: clusterName, index: index, dir: filepath.Join(dir, clusterName), run: filepath.Join("/run", name(index)),
		namespace: name(index), address: addressesOf(index), processes: map[string]*process.Process{},
	}
}

func prepare(index int, dir string, out io.Writer) (*Cluster, error) {
	c := newCluster(index, dir)
	c.out = out
	switch {
	case index < 1 || index > MaxClusters:
		return c, fmt.Errorf("cluster %d: expected a number from 1 to %d", index, MaxClusters)
	case os.Geteuid() != 0:
		return c, errors.New("a node needs root: network namespaces, mounts and cgroups")
	}
	for _, program := range []string{"runc", "nft", "ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return c, fmt.Errorf("%w; install it with hack/debian.sh", err)
		}
	}
	if err := c.reserve(); err != nil {
		return c, err
	}
	var err error
	if c.programs, err = built.NodePrograms(); err != nil {
		return c, err
	}
	if !filepath.IsAbs(dir) {
		return c, fmt.Errorf("folder %s: expected an absolute path", dir)
	}
	if err := c.clean(); err != nil {
		return c, fmt.Errorf("removing the remains of an earlier %s: %w", c.Name, err)
	}
	for _, dir := range []string{c.path("logs"), c.run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return c, err
		}
	}
	return c, os.WriteFile(c.dirFile(), []byte(c.dir), 0o600)
}

// name returns the name of a cluster's network namespace, cgroup and folder in /run.
func name(index int) string { return "istiod-agent-" + strconv.Itoa(index) }

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

func (c *Cluster) logf(format string, args ...any) {
	fmt.Fprintf(c.out, "%s: %s\n", c.Name, fmt.Sprintf(format, args...))
}

// spawn starts a program in the cluster's network namespace, with its output in a file of Logs.
func (c *Cluster) spawn(program string, arguments ...string) (*process.Process, error) {
	command := exec.Command("nsenter", append([]string{"--net=/run/netns/" + c.namespace, "--", program}, arguments...)...)
	command.Dir = c.dir
	command.Env = []string{"PATH=" + filepath.Dir(c.programs.Shim) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + c.dir}
	name := filepath.Base(program)
	started, err := process.StartLogging(name, command, c.path("logs", name+".log"))
	if err == nil {
		c.processes[name] = started
	}
	return started, err
}

// Logs returns the folder with the output of the cluster's programs.
func (c *Cluster) Logs() string { return c.path("logs") }

// Kubectl returns a kubectl command for this cluster.
func (c *Cluster) Kubectl(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, c.programs.Kubectl, arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return command
}

// open creates the administrator's clients.
func (c *Cluster) open() (err error) {
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return err
	}
	c.Config.QPS, c.Config.Burst = 100, 200
	c.Client, err = kubernetes.NewForConfig(c.Config)
	return err
}
