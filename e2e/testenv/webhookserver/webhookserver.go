// SPDX-License-Identifier: Apache-2.0

// Package webhookserver installs this project's chart and runs its webhook: the
// chart's objects are in the cluster as Helm puts them there, and the program
// runs as separate processes on loopback in place of the chart's Pods, with the
// configuration of the chart's ConfigMap and the rights of the chart's
// ServiceAccount.
package webhookserver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// Release is how the chart is installed.
var Release = helm.Release{Name: "istiod-agent", Namespace: "istiod-agent-system"}

// Name of the chart's ServiceAccount, ConfigMap and Service.
const Name = "istiod-agent-webhook"

// Options say how the webhook is installed.
type Options struct {
	// Values of the chart.
	Values helm.Values
	// File, when given, is the configuration file in place of the chart's.
	File string
	// Configuration is laid over the configuration file.
	Configuration map[string]any
	// Replicas to run; 1 by default.
	Replicas int
	// Before is put in front of the program's command line, such as what bounds its memory.
	Before []string
}

// Webhook is an installed chart with its program running.
type Webhook struct {
	Service  *Service
	Replicas []*Replica

	plane      *controlplane.ControlPlane
	helm       *helm.Client
	options    Options
	config     map[string]any
	program    string
	kubeconfig string
	through    string // a kubeconfig in its place
	dir        string
}

// Start installs the chart and returns once every replica is ready. Stop must
// be called, also after a failed test.
func Start(ctx context.Context, plane *controlplane.ControlPlane, options Options) (*Webhook, error) {
	program, err := built.Webhook(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "istiod-agent-webhook-")
	if err != nil {
		return nil, err
	}
	w := &Webhook{plane: plane, options: options, program: program, dir: dir}
	if err := w.start(ctx); err != nil {
		return nil, errors.Join(err, w.Stop())
	}
	return w, nil
}

func (w *Webhook) start(ctx context.Context) (err error) {
	if w.Service, err = newService(); err != nil {
		return err
	}
	if w.helm, err = helm.NewClient(w.plane.Config); err != nil {
		return err
	}
	if err := w.install(ctx); err != nil {
		return fmt.Errorf("installing the chart: %w", err)
	}
	if w.config, err = w.configuration(ctx); err != nil {
		return fmt.Errorf("reading the configuration file: %w", err)
	}
	user, groups := controlplane.ServiceAccount(Release.Namespace, Name)
	if w.kubeconfig, err = w.plane.Kubeconfig(user, groups...); err != nil {
		return err
	}
	for range max(1, w.options.Replicas) {
		if _, err := w.Scale(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Scale adds a replica and returns once it is ready and an endpoint of the Service.
func (w *Webhook) Scale(ctx context.Context) (*Replica, error) {
	replica, err := startReplica(append(slices.Clone(w.options.Before), w.program), cmp.Or(w.through, w.kubeconfig), w.dir, w.config)
	if err != nil {
		return nil, err
	}
	w.Replicas = append(w.Replicas, replica)
	if err := replica.WaitReady(ctx); err != nil {
		return nil, err
	}
	w.Service.Add(replica.Address())
	return replica, nil
}

// Before puts this in front of the command line of replicas that start from now on.
func (w *Webhook) Before(command ...string) { w.options.Before = command }

// AgentImage is the image that the configuration has injected.
func (w *Webhook) AgentImage() string {
	image, _, _ := unstructured.NestedString(w.config, "agent", "image")
	return image
}

// Replace does to one replica what a rolling update does: a new one is started,
// the old one is taken out of the Service and then ended.
func (w *Webhook) Replace(ctx context.Context, old *Replica) error {
	if _, err := w.Scale(ctx); err != nil {
		return err
	}
	return w.Remove(old)
}

// Remove ends one replica, after taking it out of the Service.
func (w *Webhook) Remove(replica *Replica) error {
	w.forget(replica)
	return replica.Stop()
}

// Kill crashes one replica.
func (w *Webhook) Kill(replica *Replica) error {
	w.forget(replica)
	return replica.Kill()
}

func (w *Webhook) forget(replica *Replica) {
	w.Service.Remove(replica.Address())
	w.Replicas = slices.DeleteFunc(w.Replicas, func(r *Replica) bool { return r == replica })
}

// Roll is the rolling update after an upgrade of the chart has changed the ConfigMap: each replica is replaced by one with
// the configuration that is stored now.
func (w *Webhook) Roll(ctx context.Context) (err error) {
	if w.config, err = w.configuration(ctx); err != nil {
		return err
	}
	for _, old := range slices.Clone(w.Replicas) {
		if err := w.Replace(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

// Render is what Upgrade would apply, as YAML documents.
func (w *Webhook) Render(ctx context.Context, values helm.Values) ([]byte, error) {
	chrt, err := ourChart()
	if err != nil {
		return nil, err
	}
	rendered, err := helm.Render(ctx, Release, chrt, values)
	if err != nil {
		return nil, err
	}
	patched, err := helm.Patch(toLoopback(w.Service.Port())).Run(bytes.NewBufferString(rendered))
	if err != nil {
		return nil, err
	}
	return patched.Bytes(), nil
}

// Reconfigure restarts as many replicas with more laid over their configuration file.
func (w *Webhook) Reconfigure(ctx context.Context, more map[string]any) error {
	replicas := len(w.Replicas)
	if err := w.StopReplicas(); err != nil {
		return err
	}
	w.config = overlay(w.config, more)
	for range replicas {
		if _, err := w.Scale(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Cluster is what the replicas talk to the API server with.
func (w *Webhook) Cluster() (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", w.kubeconfig)
}

// Through has replicas that start from now on talk to the API server by another way, which knows by itself who they
// are; "" is the API server itself again.
func (w *Webhook) Through(url string) error {
	w.through = ""
	if url == "" {
		return nil
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["through"] = &clientcmdapi.Cluster{Server: url}
	config.Contexts["through"] = &clientcmdapi.Context{Cluster: "through"}
	config.CurrentContext = "through"
	file := filepath.Join(w.dir, "through.kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return err
	}
	w.through = file
	return nil
}

// Check runs the program's own check, which is what `helm test` does, and gives
// what it prints.
func (w *Webhook) Check(ctx context.Context) (string, error) {
	file := filepath.Join(w.dir, "config-check.yaml")
	if err := writeYAML(file, w.config); err != nil {
		return "", err
	}
	output, err := exec.CommandContext(ctx, w.program, "check", "--config", file, "--kubeconfig", w.kubeconfig).CombinedOutput()
	return string(output), err
}

// StopReplicas ends the processes and leaves the chart installed: the webhook is down.
func (w *Webhook) StopReplicas() error {
	var failed []error
	for len(w.Replicas) > 0 {
		failed = append(failed, w.Remove(w.Replicas[0]))
	}
	return errors.Join(failed...)
}

// Stop ends the processes and uninstalls the chart.
func (w *Webhook) Stop() error {
	failed := []error{w.StopReplicas()}
	if w.Service != nil {
		w.Service.close()
	}
	if w.helm != nil {
		failed = append(failed, w.helm.Uninstall(Release))
	}
	return errors.Join(append(failed, os.RemoveAll(w.dir))...)
}
