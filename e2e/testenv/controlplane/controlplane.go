// SPDX-License-Identifier: Apache-2.0

// Package controlplane runs a real kube-apiserver with its etcd on loopback.
// No controller-manager and no scheduler run: nothing but the API server and
// what is under test ever changes an object.
package controlplane

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
)

// ControlPlane is a running API server.
type ControlPlane struct {
	// Config is a cluster administrator's.
	Config *rest.Config

	env    *envtest.Environment
	dir    string
	output bytes.Buffer
}

// auditPolicy keeps the metadata, audit annotations included, of every write to
// what the webhook admits, and of all that the webhook's program asks for itself,
// but for reading single objects.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete]
  resources: [{group: apps, resources: [deployments, deployments/scale]}, {group: "", resources: [pods]}]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection, list, watch]
  userGroups: ["system:serviceaccounts:istiod-agent-system"]
- level: None
`

// Start starts etcd and kube-apiserver on free loopback ports and waits until
// they serve. Stop must be called, also after a failed test. Each of configure may add to the API server's flags.
func Start(configure ...func(*envtest.APIServer)) (*ControlPlane, error) {
	apiserver, etcd, err := built.ControlPlane()
	if err != nil {
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

	c := &ControlPlane{dir: dir, env: &envtest.Environment{ControlPlaneStartTimeout: time.Minute, ControlPlaneStopTimeout: time.Minute}}
	server := c.env.ControlPlane.GetAPIServer()
	server.Path = apiserver
	server.Err = &c.output
	server.Configure().
		// envtest switches the ServiceAccount plugin off; target pods' API
		// tokens, which istiod and the agent need, are its work.
		Set("disable-admission-plugins", "").
		// Nothing uses the kubernetes Service; its address is one of RFC 5737's,
		// since a loopback one is refused and a machine may have no other.
		Set("endpoint-reconciler-type", "none").
		Set("advertise-address", "192.0.2.1").
		Set("audit-policy-file", policy).
		Set("audit-log-path", c.auditLog()).
		Set("audit-log-mode", "blocking")
	for _, each := range configure {
		each(server)
	}
	c.env.ControlPlane.Etcd = &envtest.Etcd{Path: etcd}

	c.Config, err = c.env.Start()
	if err != nil {
		_ = c.Stop()
		return nil, fmt.Errorf("starting kube-apiserver and etcd: %w\n%s", err, lastLines(c.output.String(), 20))
	}
	return c, nil
}

// Stop stops the processes and removes their files.
func (c *ControlPlane) Stop() error {
	err := c.env.Stop()
	if removeErr := os.RemoveAll(c.dir); err == nil {
		err = removeErr
	}
	return err
}

// Kubeconfig writes a kubeconfig file for a user, authenticated by a client
// certificate, and gives its path. The user may do what RBAC grants them; the
// name of a ServiceAccount (see ServiceAccount) gives exactly its rights.
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

// ServiceAccount is the user name and the groups by which the API server knows
// a service account.
func ServiceAccount(namespace, name string) (user string, groups []string) {
	return "system:serviceaccount:" + namespace + ":" + name,
		[]string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
}
