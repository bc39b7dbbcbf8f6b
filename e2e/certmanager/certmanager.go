// SPDX-License-Identifier: Apache-2.0

// Package certmanager runs a real cert-manager, its controller and its cainjector, as processes beside a real API server.
// Its own webhook, which only checks what is created, does not run.
package certmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/built"
	"github.com/istiod-agent/istiod-agent/e2e/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/process"
)

// CertManager is a running cert-manager.
type CertManager struct {
	processes []*process.Process
}

// Start installs the CRDs and starts both programs. Stop must be called, also after a failed test.
func Start(ctx context.Context, plane *controlplane.ControlPlane) (*CertManager, error) {
	controller, cainjector, err := built.CertManager()
	if err != nil {
		return nil, err
	}
	crds, err := CRDs(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := envtest.InstallCRDs(plane.Config, envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true}); err != nil {
		return nil, fmt.Errorf("installing cert-manager's CRDs: %w", err)
	}
	kubeconfig, err := plane.Kubeconfig("cert-manager", "system:masters")
	if err != nil {
		return nil, err
	}
	c := &CertManager{}
	for _, program := range []string{controller, cainjector} {
		started, err := process.Start(filepath.Base(program), exec.Command(program, "--kubeconfig", kubeconfig))
		if err != nil {
			return nil, errors.Join(err, c.Stop())
		}
		c.processes = append(c.processes, started)
	}
	return c, nil
}

// Output is what both programs have written so far.
func (c *CertManager) Output() string {
	output := ""
	for _, each := range c.processes {
		output += each.Output()
	}
	return output
}

// Stop ends both programs.
func (c *CertManager) Stop() error {
	var failed []error
	for _, each := range c.processes {
		failed = append(failed, each.Stop(30*time.Second))
	}
	return errors.Join(failed...)
}

// CRDs gives the folder with cert-manager's CRDs: they are where Go keeps the module that cert-manager is built from.
func CRDs(ctx context.Context) (string, error) {
	root, err := built.Root()
	if err != nil {
		return "", err
	}
	download := exec.CommandContext(ctx, "go", "mod", "download", "-json", "github.com/cert-manager/cert-manager")
	download.Dir, download.Stderr = filepath.Join(root, "e2e", "binaries", "cert-manager"), os.Stderr
	output, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("looking for cert-manager's module: %w", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(output, &module); err != nil {
		return "", err
	}
	return filepath.Join(module.Dir, "deploy", "crds"), nil
}
