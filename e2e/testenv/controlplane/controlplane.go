// SPDX-License-Identifier: Apache-2.0

// Package controlplane runs kube-apiserver and etcd on loopback. No controller-manager and no scheduler run: only the API
// server and the programs under test change objects.
package controlplane

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
)

// ControlPlane is a running API server.
type ControlPlane struct {
	// Config has an administrator's rights.
	Config *rest.Config

	env    *envtest.Environment
	dir    string
	output bytes.Buffer
}

// auditPolicy records, with audit annotations, every write to the kinds that the webhook admits, and every request of the
// webhook's program.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete]
  resources: [{group: apps, resources: [deployments, deployments/scale]}, {group: "", resources: [pods]}]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection, get, list, watch]
  userGroups: ["system:serviceaccounts:istiod-agent-system"]
- level: None
`

// Start starts etcd and kube-apiserver on free loopback ports and waits until they serve. The caller must call Stop. Each
// configure function may add flags to the API server.
func Start(configure ...func(*envtest.APIServer)) (*ControlPlane, error) {
	apiserver, etcd, err := built.ControlPlane()
	if err != nil {
		return nil, err
	}
	root, err := built.Root()
	if err != nil {
		return nil, err
	}
	if err := os.Setenv("ISTIOD_AGENT_TESTS_APISERVER", apiserver); err != nil { // envtest has no environment for its processes
		return nil, err
	}
	dir, err := os.MkdirTemp("", "istiod-agent-control-plane-")
	if err != nil {
		return nil, err
	}
	policy := filepath.Join(dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}

	ports, err := process.FreePorts(3)
	if err != nil {
		return nil, err
	}

	c := &ControlPlane{dir: dir, env: &envtest.Environment{ControlPlaneStartTimeout: time.Minute, ControlPlaneStopTimeout: time.Minute}}
	server := c.env.ControlPlane.GetAPIServer()
	server.Path = filepath.Join(root, "e2e", "testenv", "controlplane", "kube-apiserver.sh")
	server.Err = &c.output
	server.Address, server.Port = "127.0.0.1", strconv.Itoa(ports[0])
	server.Configure().
		// envtest disables the ServiceAccount plugin, which adds the API tokens to istiod's Pods.
		Set("disable-admission-plugins", "").
		// No client uses the kubernetes Service. The API server refuses a loopback address for it, and a machine may have
		// no other: this one is reserved for documentation (RFC 5737).
		Set("endpoint-reconciler-type", "none").
		Set("advertise-address", "192.0.2.1").
		Set("audit-policy-file", policy).
		Set("audit-log-path", c.auditLog()).
		Set("audit-log-mode", "blocking")
	for _, each := range configure {
		each(server)
	}
	c.env.ControlPlane.Etcd = &envtest.Etcd{Path: etcd, URL: loopback(ports[1])}
	c.env.ControlPlane.Etcd.Configure().Set("listen-peer-urls", loopback(ports[2]).String())

	c.Config, err = c.env.Start()
	if err != nil {
		_ = c.Stop()
		return nil, fmt.Errorf("starting kube-apiserver and etcd: %w\n%s", err, process.LastLines(c.output.String()))
	}
	return c, nil
}

func loopback(port int) *url.URL {
	return &url.URL{Scheme: "http", Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}

// Stop stops the processes and removes their files.
func (c *ControlPlane) Stop() error {
	err := c.env.Stop()
	if removeErr := os.RemoveAll(c.dir); err == nil {
		err = removeErr
	}
	return err
}

// Kubeconfig writes a kubeconfig with a client certificate for a user, and returns its path. The user has the rights that
// RBAC grants; with the result of ServiceAccount, those of a service account.
func (c *ControlPlane) Kubeconfig(user string, groups ...string) (string, error) {
	added, err := c.env.AddUser(envtest.User{Name: user, Groups: groups}, nil)
	if err != nil {
		return "", err
	}
	content, err := added.KubeConfig()
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp(c.dir, "*.kubeconfig")
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return "", err
	}
	return file.Name(), nil
}

// ServiceAccount returns the API server's user name and groups of a service account.
func ServiceAccount(namespace, name string) (user string, groups []string) {
	return "system:serviceaccount:" + namespace + ":" + name,
		[]string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
}
