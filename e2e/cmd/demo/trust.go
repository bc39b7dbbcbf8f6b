// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
)

// patience is the timeout of each condition.
const patience = time.Minute

// trust does the kubelet's work: it runs the containers of the stored Pod template as local processes, in a Pod's order.
func trust(ctx context.Context, s *steps, c *cluster.Cluster, template *corev1.PodSpec) (err error) {
	var stops []func() error
	defer func() {
		slices.Reverse(stops)
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
	}()
	vault, root, err := guide(ctx, s, c, &stops)
	if err != nil {
		return err
	}

	cacerts, remove, err := istiodserver.Tmpfs()
	if err != nil {
		return err
	}
	stops = append(stops, remove)
	dir, err := os.MkdirTemp("", "istiod-agent-demo-")
	if err != nil {
		return err
	}
	stops = append(stops, func() error { return os.RemoveAll(dir) })
	pod, err := agents.NewPod(ctx, c, namespace, "istiod-demo", cacerts, dir)
	if err != nil {
		return err
	}
	if err := s.step("kubectl create namespace gloo-mesh; kubectl apply -f virtual-mesh.yaml (the guide's, but for this Vault's address)", func() error {
		return apply(ctx, c, vault.Address)
	}); err != nil {
		return err
	}
	certificate := pod.Certificate(vault.Address, nil)
	if err := s.step("kubectl wait virtualmesh virtual-mesh -n gloo-mesh --for=condition=Ready", func() error {
		return eventually(ctx, func() error { return ready(ctx, c) })
	}); err != nil {
		return err
	}

	first, last := template.InitContainers[0], template.Containers[len(template.Containers)-1]
	if err := s.step("run init container "+first.Name+": "+strings.Join(first.Args, " "), func() error {
		if err := pod.Inject(first); err != nil {
			return err
		}
		output, err := pod.Command(ctx, first.Args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w:\n%s", err, output)
		}
		return err
	}); err != nil {
		return err
	}
	var istiod *istiodserver.Server
	if err := s.step("run istiod, its ROOT_CA_DIR in memory", func() (err error) {
		istiod, err = istiodserver.Start(ctx, istiodserver.Options{Plane: c.Plane, Namespace: namespace, CACerts: cacerts})
		return err
	}); err != nil {
		return err
	}
	stops = append(stops, istiod.Stop)
	pod.IstiodAddress = istiod.SecureAddress
	var sidecar *agents.Sidecar
	if err := s.step("run container "+last.Name+": "+strings.Join(last.Args, " "), func() (err error) {
		if err = pod.Inject(last); err != nil {
			return err
		}
		sidecar, err = pod.Sidecar(ctx)
		return err
	}); err != nil {
		return err
	}
	stops = append(stops, func() error { return sidecar.Stop(10 * time.Second) })
	return renewed(ctx, s, c, certificate, istiod, root, cacerts)
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
func guide(ctx context.Context, s *steps, c *cluster.Cluster, stops *[]func() error) (*vaultserver.Server, []byte, error) {
	var vault *vaultserver.Server
	if err := s.step("start Vault on loopback, in dev mode", func() (err error) {
		vault, err = vaultserver.Start(ctx, vaultserver.Options{})
		return err
	}); err != nil {
		return nil, nil, err
	}
	*stops = append(*stops, vault.Stop)
	guide, err := vault.NewGuide(vaultserver.GuideOptions{Cluster: c.Plane.Config, ServiceAccount: agents.ServiceAccount, Namespace: namespace})
	if err != nil {
		return nil, nil, err
	}
	for _, step := range guide.Steps {
		command, _, more := strings.Cut(step.Command, "\n")
		if more {
			command += " …"
		}
		if err := s.step(command, func() error { return step.Run(ctx) }); err != nil {
			return nil, nil, err
		}
	}
	return vault, guide.Root.Certificate, nil
}

// renewed shows that istiod uses Vault's CA, and that it loads a renewed one without a restart.
func renewed(ctx context.Context, s *steps, c *cluster.Cluster, certificate *unstructured.Unstructured, istiod *istiodserver.Server, root []byte, cacerts string) error {
	var before, after string
	if err := s.step("wait until istiod is seen to sign under Vault's CA", func() (err error) {
		before, err = confirmed(ctx, c, certificate, "")
		return err
	}); err != nil {
		return err
	}
	if err := s.step(`kubectl get cm istio-ca-root-cert -o json | jq -r '.data["root-cert.pem"]' | diff root-cert.pem -`, func() error {
		return eventually(ctx, func() error {
			published, err := istiod.PublishedRoot(ctx, namespace)
			if err == nil && !bytes.Equal(bytes.TrimSpace(published), bytes.TrimSpace(root)) {
				err = errors.New("the root in the ConfigMap is not Vault's")
			}
			return err
		})
	}); err != nil {
		return err
	}
	process := istiod.Process().PID()
	if err := s.step("kubectl annotate issuedcertificate "+certificate.GetName()+" istiod-agent.io/renew=now, and wait until it is confirmed", func() (err error) {
		if err := agents.Renew(ctx, c, certificate, "now"); err != nil {
			return err
		}
		after, err = confirmed(ctx, c, certificate, before)
		return err
	}); err != nil {
		return err
	}
	if now := istiod.Process().PID(); now != process {
		return fmt.Errorf("istiod was restarted: its process was %d and is %d", process, now)
	}

	content, err := os.ReadFile(filepath.Join(cacerts, "ca-cert.pem"))
	if err != nil {
		return err
	}
	block, _ := pem.Decode(content)
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	s.title("The mesh's trust")
	fmt.Printf("  root          %s, in Vault and in ConfigMap istio-ca-root-cert: no difference\n", ca.Issuer)
	fmt.Printf("  istiod's CA   %s, before the renewal\n", before)
	fmt.Printf("                %s, after it: confirmed, and istiod is still process %d\n", after, process)
	fmt.Printf("  for           %s\n", ca.URIs[0])
	fmt.Printf("  valid until   %s (Vault's default maximum; see docs/vault.md)\n", ca.NotAfter.UTC().Format(time.RFC3339))
	return nil
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
		return fmt.Errorf("not so after %s: %w", patience, last)
	}
	return nil
}
