// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/vaultserver"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// patience is the timeout of each condition.
const patience = time.Minute

// mesh is what runs for the mesh's trust.
type mesh struct {
	vault *vaultserver.Server
	// root is the root that the guide's openssl makes and Vault signs with, in PEM.
	root []byte
	// cacerts is istiod's folder in memory.
	cacerts string
	// dir is for other files.
	dir         string
	pod         *agents.Pod
	certificate *unstructured.Unstructured
	istiod      *istiodserver.Server
	// keys are istiod's CA keys so far, in PEM.
	keys [][]byte
}

// trust does the kubelet's work: it runs the containers of the stored Pod template as local processes, in a Pod's order.
func (d *demo) trust(ctx context.Context) (err error) {
	s, m, template := d.steps, &d.mesh, &d.istiod.Spec.Template.Spec
	if err := d.guide(ctx); err != nil {
		return err
	}

	cacerts, remove, err := istiodserver.Tmpfs()
	if err != nil {
		return err
	}
	d.started("the folder in memory", remove)
	m.cacerts = cacerts
	if m.dir, err = os.MkdirTemp("", "istiod-agent-demo-"); err != nil {
		return err
	}
	d.started("temporary files", func() error { return os.RemoveAll(m.dir) })
	if err := d.schedule(ctx); err != nil {
		return err
	}
	if err := s.step("kubectl create namespace gloo-mesh; kubectl apply -f virtual-mesh.yaml (the guide's, with this Vault's address)", func() error {
		return apply(ctx, d.cluster, m.vault.Address)
	}); err != nil {
		return err
	}
	m.certificate = m.pod.Certificate(m.vault.Address, nil)
	if err := s.step("kubectl wait virtualmesh virtual-mesh -n gloo-mesh --for=condition=Ready", func() error {
		return eventually(ctx, func() error { return ready(ctx, d.cluster) })
	}); err != nil {
		return err
	}

	first, last := template.InitContainers[0], template.Containers[len(template.Containers)-1]
	if err := s.step("run init container "+first.Name+": "+strings.Join(first.Args, " "), func() error {
		if err := m.pod.Inject(first); err != nil {
			return err
		}
		output, err := m.pod.Command(ctx, first.Args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w:\n%s", err, output)
		}
		return err
	}); err != nil {
		return err
	}
	if err := s.step("run istiod, with its ROOT_CA_DIR in memory", func() (err error) {
		m.istiod, err = istiodserver.Start(ctx, istiodserver.Options{Plane: d.cluster.Plane, Namespace: namespace, CACerts: cacerts})
		return err
	}); err != nil {
		return err
	}
	d.started("istiod", m.istiod.Stop)
	m.pod.IstiodAddress, m.pod.MonitoringAddress = m.istiod.SecureAddress, m.istiod.MonitoringAddress
	return s.step("run container "+last.Name+": "+strings.Join(last.Args, " "), func() error {
		if err := m.pod.Inject(last); err != nil {
			return err
		}
		sidecar, err := m.pod.Sidecar(ctx)
		if err != nil {
			return err
		}
		d.started("the sidecar", func() error { return sidecar.Stop(10 * time.Second) })
		return nil
	})
}

// schedule creates the Pod that the ReplicaSet's controller creates.
func (d *demo) schedule(ctx context.Context) (err error) {
	const name = "istiod-demo"
	object := cluster.Pod(namespace, &d.istiod.Spec.Template)
	object.GenerateName, object.Name = "", name
	if err := d.cluster.Create(ctx, object); err != nil {
		return err
	}
	d.mesh.pod, err = agents.NewPod(ctx, d.cluster, namespace, name, d.mesh.cacerts, d.mesh.dir)
	return err
}

// apply applies the guide's VirtualMesh.
func apply(ctx context.Context, c *cluster.Cluster, vault string) error {
	root, err := built.Root()
	if err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(root, "config", "samples", "virtualmesh.yaml"))
	if err != nil {
		return err
	}
	objects, err := manifest.Parse(bytes.ReplaceAll(content, []byte("http://vault.vault:8200"), []byte(vault)))
	if err != nil {
		return err
	}
	for _, object := range objects {
		if err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: object.GetNamespace()}}); err != nil {
			return err
		}
		if _, err := c.ServerSideApply(ctx, object); err != nil {
			return err
		}
	}
	return nil
}

// ready returns an error unless the VirtualMesh is accepted.
func ready(ctx context.Context, c *cluster.Cluster) error {
	mesh := &unstructured.Unstructured{}
	mesh.SetAPIVersion("networking.mesh.gloo.solo.io/v1")
	mesh.SetKind("VirtualMesh")
	if err := c.Get(ctx, client.ObjectKey{Namespace: "gloo-mesh", Name: "virtual-mesh"}, mesh); err != nil {
		return err
	}
	if state, _, _ := unstructured.NestedString(mesh.Object, "status", "state"); state != "ACCEPTED" {
		return fmt.Errorf("its status is %v", mesh.Object["status"])
	}
	return nil
}

// guide sets up Vault by the guide's commands.
func (d *demo) guide(ctx context.Context) error {
	if err := d.steps.step("start Vault on loopback, in dev mode", func() (err error) {
		d.mesh.vault, err = vaultserver.Start(ctx, vaultserver.Options{})
		return err
	}); err != nil {
		return err
	}
	d.started("Vault", d.mesh.vault.Stop)
	guide, err := d.mesh.vault.NewGuide(vaultserver.GuideOptions{Cluster: d.cluster.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace})
	if err != nil {
		return err
	}
	for _, step := range guide.Steps {
		command, _, more := strings.Cut(step.Command, "\n")
		if more {
			command += " …"
		}
		if strings.HasPrefix(command, "helm install ") {
			command = "(stands for: " + command + ")" // Vault runs already
		}
		if err := d.steps.step(command, func() error { return step.Run(ctx) }); err != nil {
			return err
		}
	}
	d.mesh.root = guide.Root.Certificate
	return nil
}

// renewed shows that istiod uses Vault's CA, and that it loads a renewed one without a restart.
func (d *demo) renewed(ctx context.Context) error {
	s, m, found := d.steps, &d.mesh, &d.summary
	if err := s.step("wait until istiod is confirmed to sign under Vault's CA", func() (err error) {
		found.before, err = confirmed(ctx, d.cluster, m.certificate, "")
		return err
	}); err != nil {
		return err
	}
	if err := m.readKey(); err != nil {
		return err
	}
	if err := s.step(`kubectl get cm istio-ca-root-cert -n istio-system -o json | jq -r '.data["root-cert.pem"]' | diff root-cert.pem -`, func() error {
		return eventually(ctx, func() error {
			published, err := m.istiod.PublishedRoot(ctx, namespace)
			if err == nil && !bytes.Equal(bytes.TrimSpace(published), bytes.TrimSpace(m.root)) {
				err = errors.New("the root in the ConfigMap is not Vault's")
			}
			return err
		})
	}); err != nil {
		return err
	}
	found.process = m.istiod.Process().PID()
	started := time.Now()
	if err := s.step("kubectl annotate issuedcertificate "+m.certificate.GetName()+" -n "+namespace+" istiod-agent.io/renew=now, and wait until it is confirmed", func() (err error) {
		if err := agents.Renew(ctx, d.cluster, m.certificate, "now"); err != nil {
			return err
		}
		found.after, err = confirmed(ctx, d.cluster, m.certificate, found.before)
		return err
	}); err != nil {
		return err
	}
	found.renewal = time.Since(started)
	if now := m.istiod.Process().PID(); now != found.process {
		return fmt.Errorf("istiod was restarted: its process was %d and is %d", found.process, now)
	}
	return m.readKey()
}

// readKey remembers istiod's current CA key.
func (m *mesh) readKey() error {
	key, err := os.ReadFile(filepath.Join(m.cacerts, istio.CAKeyFile))
	m.keys = append(m.keys, key)
	return err
}

// confirmed waits until istiod uses a certificate other than the one named, and returns its serial number.
func confirmed(ctx context.Context, c *cluster.Cluster, certificate *unstructured.Unstructured, other string) (serial string, err error) {
	err = eventually(ctx, func() error {
		stored := certificate.DeepCopy()
		if err := c.Get(ctx, client.ObjectKeyFromObject(certificate), stored); err != nil {
			return err
		}
		state, _, _ := unstructured.NestedString(stored.Object, "status", "state")
		failed, _, _ := unstructured.NestedString(stored.Object, "status", "error")
		entries, _, _ := unstructured.NestedSlice(stored.Object, "status", "certificates")
		if len(entries) == 1 {
			serial, _, _ = unstructured.NestedString(entries[0].(map[string]any), "serialNumber")
		}
		if state != "FINISHED" || serial == other {
			return fmt.Errorf("the IssuedCertificate's state is %q, its error %q", state, failed)
		}
		return nil
	})
	return serial, err
}

// eventually waits until the condition returns no error.
func eventually(ctx context.Context, condition func() error) error {
	var last error
	if err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		last = condition()
		return last == nil, nil
	}); err != nil {
		return fmt.Errorf("timeout after %s: %w", patience, last)
	}
	return nil
}
