// SPDX-License-Identifier: Apache-2.0

// Package node starts whole Kubernetes clusters of one node each, from binaries that were built from Go modules: control
// plane, kubelet, containerd and kube-proxy as processes of this machine, each cluster in a network namespace of its
// own, so that several stand side by side on their standard ports. It needs Linux and root, and leaves no trace.
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

// Most is how many clusters can stand side by side.
const Most = 9

// startTimeout is how long a cluster may take until its node is ready.
const startTimeout = 3 * time.Minute

// Cluster is a running cluster.
type Cluster struct {
	// Name is that of the cluster, of its context and of its node: cluster-1.
	Name string
	// Kubeconfig is an administrator's file, with one context of the cluster's name.
	Kubeconfig string
	// Config and Client are an administrator's.
	Config *rest.Config
	Client kubernetes.Interface

	index     int
	dir       string // what it keeps on disk
	run       string // sockets and mounts: short, and gone with the machine
	namespace string // of the network
	programs  built.Node
	address   addresses
	pki       *pki
	processes map[string]*process.Process
	lock      *os.File // held by the process whose cluster has the number; nil when it is not this one's
	out       io.Writer
}

// Start starts cluster number index, from 1 to Most, under dir, and returns once Pods can run in it. What an earlier
// one of that number left is taken away first. Stop must be called, also after an error. Progress goes to out.
func Start(ctx context.Context, index int, dir string, out io.Writer) (*Cluster, error) {
	c, err := prepare(index, dir, out) //nolint:contextcheck // what is taken away is, whenever that is
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
		c.say("%s (%s)", step.name, time.Since(begin).Round(100*time.Millisecond))
	}
	return c, nil
}

func newCluster(index int, dir string) *Cluster {
	called := "cluster-" + strconv.Itoa(index)
	return &Cluster{
		Name: called, index: index, dir: filepath.Join(dir, called), run: filepath.Join("/run", name(index)),
		namespace: name(index), address: addressesOf(index), processes: map[string]*process.Process{},
	}
}

func prepare(index int, dir string, out io.Writer) (*Cluster, error) {
	c := newCluster(index, dir)
	c.out = out
	switch {
	case index < 1 || index > Most:
		return c, fmt.Errorf("cluster %d: expected a number from 1 to %d", index, Most)
	case os.Geteuid() != 0:
		return c, errors.New("a node needs root: network namespaces, mounts and cgroups")
	}
	for _, program := range []string{"runc", "nft", "ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return c, fmt.Errorf("%w; install it with hack/debian.sh", err)
		}
	}
	if err := c.take(); err != nil {
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
		return c, fmt.Errorf("taking away what an earlier %s left: %w", c.Name, err)
	}
	for _, dir := range []string{c.path("logs"), c.run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return c, err
		}
	}
	return c, os.WriteFile(c.dirFile(), []byte(c.dir), 0o600)
}

// name is what this machine calls what belongs to a cluster: network namespace, cgroup, folder in /run.
func name(index int) string { return "istiod-agent-" + strconv.Itoa(index) }

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.out, "%s: %s\n", c.Name, fmt.Sprintf(format, args...))
}

// spawn starts a program in the cluster's network, with its output in a file of logs.
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

// Logs is the folder with what each of the cluster's programs has written.
func (c *Cluster) Logs() string { return c.path("logs") }

// Kubectl gives the command `kubectl ARGUMENTS...` for this cluster.
func (c *Cluster) Kubectl(ctx context.Context, arguments ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, c.programs.Kubectl, arguments...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return command
}

// open makes clients for the administrator's kubeconfig.
func (c *Cluster) open() (err error) {
	if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
		return err
	}
	c.Config.QPS, c.Config.Burst = 100, 200
	c.Client, err = kubernetes.NewForConfig(c.Config)
	return err
}
