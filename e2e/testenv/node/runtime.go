// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Templates of the programs' configuration files.
var (
	//go:embed templates/containerd.toml
	containerdTemplate string
	//go:embed templates/cni.json
	cniTemplate string
	//go:embed templates/kubelet.yaml
	kubeletTemplate string
	//go:embed templates/kube-proxy.yaml
	kubeProxyTemplate string
)

// configuration holds the values of the templates.
type configuration struct {
	Name, Dir, Run, Cgroup        string
	Node, Pods, Services, DNS, CA string
	Runc, CNI, Sandbox, KubeProxy string
	ContainerdSocket              string
}

// sandboxImage is the image of Pod sandboxes.
const sandboxImage = "istiod-agent.test/pause:1"

// cniPlugins is Debian's folder of CNI plugins.
const cniPlugins = "/usr/lib/cni"

func (c *Cluster) socket() string { return filepath.Join(c.run, "containerd.sock") }

func (c *Cluster) startRuntime(ctx context.Context) error {
	if err := os.MkdirAll(c.path("cni"), 0o700); err != nil {
		return err
	}
	if _, err := c.fill("cni/pods.conflist", cniTemplate); err != nil {
		return err
	}
	file, err := c.fill("containerd.toml", containerdTemplate)
	if err != nil {
		return err
	}
	runtime, err := c.spawn(c.programs.Containerd, "--config", file)
	if err != nil {
		return err
	}
	return runtime.WaitUntil(ctx, "it serves", func(ctx context.Context) error {
		connection, err := new(net.Dialer).DialContext(ctx, "unix", c.socket())
		if err != nil {
			return err
		}
		return connection.Close()
	})
}

// startNode starts kube-proxy and the kubelet, and returns once the node is ready.
func (c *Cluster) startNode(ctx context.Context) error {
	if err := makeCgroup(c.namespace); err != nil {
		return err
	}
	file, err := c.fill("kube-proxy.yaml", kubeProxyTemplate)
	if err != nil {
		return err
	}
	if _, err := c.spawn(c.programs.KubeProxy, "--config", file, "--hostname-override", c.Name); err != nil {
		return err
	}
	if err := os.WriteFile(c.path("resolv.conf"), nil, 0o600); err != nil {
		return err
	}
	if file, err = c.fill("kubelet.yaml", kubeletTemplate); err != nil {
		return err
	}
	kubelet, err := c.spawn(c.programs.Kubelet, "--config", file, "--kubeconfig", c.path("kubeconfig", "system-node-"+c.Name),
		"--hostname-override", c.Name, "--node-ip", c.address.node, "--root-dir", c.path("kubelet"), "--cert-dir", c.path("kubelet-pki"))
	if err != nil {
		return err
	}
	return kubelet.WaitUntil(ctx, "the node is ready", func(ctx context.Context) error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, c.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				if condition.Status == corev1.ConditionTrue {
					return nil
				}
				return fmt.Errorf("the node is not ready: %s", condition.Message)
			}
		}
		return errors.New("the node has no Ready condition")
	})
}

// RestartNode kills everything on the node, as a loss of power does, and starts it again. The control plane, which is
// elsewhere in a real cluster, continues.
func (c *Cluster) RestartNode(ctx context.Context) error {
	for _, name := range []string{"kubelet", "kube-proxy"} {
		if err := c.processes[name].Kill(); err != nil {
			return err
		}
	}
	if err := c.killAll(filepath.Base(c.programs.Etcd), filepath.Base(c.programs.APIServer),
		filepath.Base(c.programs.ControllerManager), filepath.Base(c.programs.Scheduler)); err != nil {
		return err
	}
	<-c.processes[filepath.Base(c.programs.Containerd)].Exited()
	// A loss of power loses what is in memory: volumes, and the runtime's state.
	for _, dir := range []string{c.dir, filepath.Join(c.run, "containerd")} {
		if err := unmountBelow(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"containerd", "runc"} {
		if err := os.RemoveAll(filepath.Join(c.run, dir)); err != nil {
			return err
		}
	}
	if err := c.startRuntime(ctx); err != nil {
		return err
	}
	return c.startNode(ctx)
}

// fill writes a configuration and gives its path.
func (c *Cluster) fill(name, text string) (string, error) {
	parsed, err := template.New(name).Parse(text)
	if err != nil {
		return "", err
	}
	runc, err := lookup("runc")
	if err != nil {
		return "", err
	}
	var content bytes.Buffer
	if err := parsed.Execute(&content, configuration{
		Name: c.Name, Dir: c.dir, Run: c.run, Cgroup: c.namespace,
		Node: c.address.node, Pods: c.address.pods, Services: c.address.services, DNS: c.address.dns, CA: c.pki.file("ca.crt"),
		Runc: runc, CNI: cniPlugins, Sandbox: sandboxImage, KubeProxy: c.path("kubeconfig", "system-kube-proxy"),
		ContainerdSocket: c.socket(),
	}); err != nil {
		return "", err
	}
	return c.path(name), os.WriteFile(c.path(name), content.Bytes(), 0o600)
}
