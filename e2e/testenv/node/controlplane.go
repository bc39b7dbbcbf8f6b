// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"path/filepath"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// startControlPlane starts etcd, the API server, the controllers and the scheduler.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	var err error
	if c.pki, err = newPKI(c.path("pki"), c.address); err != nil {
		return err
	}
	kubeconfigs, err := c.logins()
	if err != nil {
		return err
	}
	c.Kubeconfig = kubeconfigs["admin"]
	if err := c.open(); err != nil {
		return err
	}
	if err := c.startEtcd(); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	_, err = c.spawn(c.programs.ControllerManager,
		"--kubeconfig="+kubeconfigs["system:kube-controller-manager"], "--leader-elect=false", "--bind-address=127.0.0.1",
		"--root-ca-file="+c.pki.file("ca.crt"), "--service-account-private-key-file="+c.pki.file("service-accounts.key"),
		"--use-service-account-credentials=true",
		"--cluster-signing-cert-file="+c.pki.file("ca.crt"), "--cluster-signing-key-file="+c.pki.file("ca.key"),
		"--cert-dir="+c.path("controller-manager"))
	if err != nil {
		return err
	}
	_, err = c.spawn(c.programs.Scheduler, "--kubeconfig="+kubeconfigs["system:kube-scheduler"], "--leader-elect=false",
		"--bind-address=127.0.0.1", "--cert-dir="+c.path("scheduler"))
	return err
}

func (c *Cluster) startEtcd() error {
	_, err := c.spawn(c.programs.Etcd, "--data-dir="+c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380")
	return err
}

// StartAPIServer starts the API server, which must not be running, and returns once it serves.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	server, err := c.spawn(c.programs.APIServer,
		"--etcd-servers=http://127.0.0.1:2379", "--advertise-address="+c.address.node, "--secure-port=6443",
		"--tls-cert-file="+c.pki.file("apiserver.crt"), "--tls-private-key-file="+c.pki.file("apiserver.key"),
		"--client-ca-file="+c.pki.file("ca.crt"), "--token-auth-file="+c.pki.file("tokens.csv"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--service-cluster-ip-range="+c.address.services, "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+c.pki.file("service-accounts.crt"), "--service-account-signing-key-file="+c.pki.file("service-accounts.key"),
		"--kubelet-client-certificate="+c.pki.file("apiserver-kubelet-client.crt"), "--kubelet-client-key="+c.pki.file("apiserver-kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP", "--cert-dir="+c.path("apiserver"))
	if err != nil {
		return err
	}
	return server.WaitUntil(ctx, "it is ready", func(ctx context.Context) error {
		if _, err := c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
			return err
		}
		// The API server creates it a moment later.
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return errors.New("namespace default does not exist yet")
		}
		return err
	})
}

// KillAPIServer kills the API server: an orderly end would wait for every watch.
func (c *Cluster) KillAPIServer() error {
	return c.processes[filepath.Base(c.programs.APIServer)].Kill()
}
