// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
)

// command is a command for a person, with what it shows.
type command struct{ line, shows string }

// nextCommands are the commands after a demo that is over.
var nextCommands = []command{
	{"make demo KEEP=1", "leaves it running, for kubectl istiod-agent"},
	{"bin/kubectl-istiod_agent inject -f FILE -o patch", "the patch for an istiod of yours"},
	{"make cluster-up CLUSTERS=2", "clusters with Pods, as root: docs/try-it.md"},
	{"docs/install.md", "in a cluster of yours"},
}

// keep prints the commands to try and waits for the signal.
func (d *demo) keep(ctx context.Context) error {
	kubeconfig, err := d.kubeconfig()
	if err != nil {
		return err
	}
	commands, err := toTry(kubeconfig, d.mesh.certificate.GetName())
	if err != nil {
		return err
	}
	d.summary.print(d.steps)
	d.steps.next("It is still running: try, in another terminal", commands)
	fmt.Println("\nCtrl-C stops everything and removes it.")

	renew := time.NewTicker(30 * time.Minute)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-renew.C: // as the kubelet does
			if err := d.mesh.pod.WriteToken(ctx, d.cluster); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// kubeconfig writes an administrator's kubeconfig, whose context is called demo.
func (d *demo) kubeconfig() (file string, err error) {
	administrator, err := d.cluster.Plane.Kubeconfig("administrator", "system:masters")
	if err != nil {
		return "", err
	}
	config, err := clientcmd.LoadFromFile(administrator)
	if err != nil {
		return "", err
	}
	config.Contexts = map[string]*clientcmdapi.Context{"demo": config.Contexts[config.CurrentContext]}
	config.CurrentContext = "demo"
	file = filepath.Join(d.mesh.dir, "kubeconfig")
	return file, clientcmd.WriteToFile(*config, file)
}

// toTry returns commands for the running demo. The last ones are for those who have kubectl.
func toTry(kubeconfig, certificate string) ([]command, error) {
	root, err := built.Root()
	if err != nil {
		return nil, err
	}
	program := filepath.Join("bin", "kubectl-istiod_agent")
	commands := []command{
		{"cd " + terminal.Plain(shell.Quote(root)), ""},
		{"export KUBECONFIG=" + terminal.Plain(shell.Quote(kubeconfig)), ""},
		{program + " status", "each istiod's CA"},
		{program + " check", "the installation"},
		{program + " verify", "one root in all namespaces"},
		{program + " renew " + certificate + " -n " + namespace, "another renewal"},
	}
	if _, err := exec.LookPath("kubectl"); err == nil {
		commands = append(commands, command{"kubectl get virtualmeshes,issuedcertificates -A", "the objects behind it"})
	}
	return commands, nil
}
