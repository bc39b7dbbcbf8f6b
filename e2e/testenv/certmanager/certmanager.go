// SPDX-License-Identifier: Apache-2.0

// Package certmanager runs cert-manager's controller and cainjector as processes. Its webhook, which only validates, does
// not run.
package certmanager

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/process"
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
	if err := InstallCRDs(ctx, plane); err != nil {
		return nil, err
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

// InstallCRDs installs the CRDs alone.
func InstallCRDs(ctx context.Context, plane *controlplane.ControlPlane) error {
	crds, err := built.CertManagerCRDs(ctx)
	if err != nil {
		return err
	}
	if _, err := envtest.InstallCRDs(plane.Config, envtest.CRDInstallOptions{Paths: []string{crds}, ErrorIfPathMissing: true}); err != nil {
		return fmt.Errorf("installing cert-manager's CRDs: %w", err)
	}
	return nil
}

// Output returns what both programs have written so far.
func (c *CertManager) Output() string {
	var output strings.Builder
	for _, each := range c.processes {
		output.WriteString(each.Output())
	}
	return output.String()
}

// Stop ends both programs.
func (c *CertManager) Stop() error {
	var failed []error
	for _, each := range c.processes {
		failed = append(failed, each.Stop(30*time.Second))
	}
	return errors.Join(failed...)
}
