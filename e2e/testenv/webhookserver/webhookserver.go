// SPDX-License-Identifier: Apache-2.0

// Package webhookserver installs this project's chart by Helm and runs the webhook's replicas as processes on loopback in
// place of the chart's Pods, with the configuration of the chart's ConfigMap and the rights of its ServiceAccount.
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

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

// Release is the chart's release.
var Release = helm.Release{Name: "istiod-agent", Namespace: "istiod-agent-system"}

// Name of the chart's ServiceAccount, Deployment, ConfigMap and Service.
const Name = "istiod-agent-webhook"

// Options configure the chart and the replicas.
type Options struct {
	// Release of the chart; the variable Release by default. Its name must contain istiod-agent.
	Release helm.Release
	// Values of the chart.
	Values helm.Values
	// Installed means that the release exists already, with other values than these. Only the webhook configuration changes: it
	// leads to the replicas.
	Installed bool
	// File is a configuration file that replaces the chart's, if it is set.
	File string
	// Configuration is merged into the configuration file.
	Configuration map[string]any
	// Replicas is the number of replicas; 1 by default.
	Replicas int
	// Before is a prefix of the program's command line, such as one that limits its memory.
	Before []string
}

// Webhook is an installed chart with its replicas.
type Webhook struct {
	Service  *Service
	Replicas []*Replica

	plane      *controlplane.ControlPlane
	release    helm.Release
	helm       *helm.Client
	options    Options
	config     map[string]any
	program    string
	kubeconfig string
	through    string // a kubeconfig that replaces it, see Through
	dir        string
}

// Start installs the chart and returns once all replicas are ready. The caller must call Stop.
func Start(ctx context.Context, plane *controlplane.ControlPlane, options Options) (*Webhook, error) {
	program, err := built.Webhook(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "istiod-agent-webhook-")
	if err != nil {
		return nil, err
	}
	w := &Webhook{plane: plane, release: cmp.Or(options.Release, Release), options: options, program: program, dir: dir}
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
	if w.options.Installed {
		err = w.takeOver(ctx)
	} else {
		err = w.install(ctx)
	}
	if err != nil {
		return fmt.Errorf("installing the chart: %w", err)
	}
	if w.config, err = w.configuration(ctx); err != nil {
		return fmt.Errorf("reading the configuration file: %w", err)
	}
	user, groups := controlplane.ServiceAccount(w.release.Namespace, w.name())
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

// Scale adds a replica and returns once it is ready and in the Service.
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

// name of the chart's ServiceAccount and so on.
func (w *Webhook) name() string { return w.release.Name + "-webhook" }

// Before puts this in front of the command line of replicas that start from now on.
func (w *Webhook) Before(command ...string) { w.options.Before = command }

// AgentImage returns the agent's image in the configuration.
func (w *Webhook) AgentImage() string {
	image, _, _ := unstructured.NestedString(w.config, "agent", "image")
	return image
}

// Replace replaces a replica as a rolling update does: it starts a new one, removes the old one from the Service, and then
// stops it.
func (w *Webhook) Replace(ctx context.Context, old *Replica) error {
	if _, err := w.Scale(ctx); err != nil {
		return err
	}
	return w.Remove(old)
}

// Remove removes a replica from the Service and stops it.
func (w *Webhook) Remove(replica *Replica) error {
	w.forget(replica)
	return replica.Stop()
}

// Kill removes a replica from the Service and kills it.
func (w *Webhook) Kill(replica *Replica) error {
	w.forget(replica)
	return replica.Kill()
}

func (w *Webhook) forget(replica *Replica) {
	w.Service.Remove(replica.Address())
	w.Replicas = slices.DeleteFunc(w.Replicas, func(r *Replica) bool { return r == replica })
}

// Roll is the rolling update after an upgrade of the chart: it replaces each replica by one with the ConfigMap's current
// configuration, and then reports that in the status of the chart's Deployment.
func (w *Webhook) Roll(ctx context.Context) (err error) {
	if w.config, err = w.configuration(ctx); err != nil {
		return err
	}
	for _, old := range slices.Clone(w.Replicas) {
		if err := w.Replace(ctx, old); err != nil {
			return err
		}
	}
	return w.report(ctx)
}

// report does what the Deployment controller does at the end of a rollout.
func (w *Webhook) report(ctx context.Context) error {
	c, err := client.New(w.plane.Config, client.Options{})
	if err != nil {
		return err
	}
	var deployment appsv1.Deployment
	if err := c.Get(ctx, client.ObjectKey{Namespace: w.release.Namespace, Name: w.name()}, &deployment); err != nil {
		return err
	}
	replicas := *deployment.Spec.Replicas
	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: deployment.Generation, Replicas: replicas, UpdatedReplicas: replicas, ReadyReplicas: replicas, AvailableReplicas: replicas,
	}
	return c.Status().Update(ctx, &deployment)
}

// Render returns the objects that Upgrade applies, as YAML documents.
func (w *Webhook) Render(ctx context.Context, values helm.Values) ([]byte, error) {
	chrt, err := ourChart()
	if err != nil {
		return nil, err
	}
	rendered, err := helm.Render(ctx, w.release, chrt, values)
	if err != nil {
		return nil, err
	}
	patched, err := helm.Patch(toLoopback(w.Service.Port())).Run(bytes.NewBufferString(rendered))
	if err != nil {
		return nil, err
	}
	return patched.Bytes(), nil
}

// Reconfigure restarts all replicas with more merged into their configuration file.
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

// Cluster returns the replicas' client configuration.
func (w *Webhook) Cluster() (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", w.kubeconfig)
}

// Through makes replicas that start from now on reach the API server at another URL, such as a proxy that adds their
// credentials. An empty URL restores the API server's.
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

// Check runs the program's check, as `helm test` does, and returns its output.
func (w *Webhook) Check(ctx context.Context) (string, error) {
	file := filepath.Join(w.dir, "config-check.yaml")
	if err := writeYAML(file, w.config); err != nil {
		return "", err
	}
	output, err := exec.CommandContext(ctx, w.program, "check", "--config", file, "--kubeconfig", w.kubeconfig).CombinedOutput()
	return string(output), err
}

// StopReplicas stops all replicas and leaves the chart installed.
func (w *Webhook) StopReplicas() error {
	var failed []error
	for len(w.Replicas) > 0 {
		failed = append(failed, w.Remove(w.Replicas[0]))
	}
	return errors.Join(failed...)
}

// Stop stops all replicas and uninstalls the chart.
func (w *Webhook) Stop() error {
	failed := []error{w.StopReplicas()}
	if w.Service != nil {
		w.Service.close()
	}
	if w.helm != nil {
		failed = append(failed, w.helm.Uninstall(w.release))
	}
	return errors.Join(append(failed, os.RemoveAll(w.dir))...)
}
