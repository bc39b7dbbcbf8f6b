// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/internal/pemcerts"
)

// MeshFlags say which VirtualMesh is meant, for the commands that may need one.
type MeshFlags struct {
	// Filename is that of a file, - for standard input.
	Filename string
	// Mesh is NAMESPACE/NAME in a cluster.
	Mesh string
}

// Add registers the flags; purpose is the flag that needs a VirtualMesh.
func (f *MeshFlags) Add(cmd *cobra.Command, purpose string) {
	cmd.Flags().StringVarP(&f.Filename, "filename", "f", "", "`file` with the VirtualMesh for "+purpose+", - for standard input (default: the only one in the first context)")
	cmd.Flags().StringVar(&f.Mesh, "virtual-mesh", "", "`namespace/name` of the VirtualMesh for "+purpose+", in the first context")
	cmd.MarkFlagsMutuallyExclusive("filename", "virtual-mesh")
}

// Given says whether one is meant explicitly.
func (f *MeshFlags) Given() bool { return f.Filename != "" || f.Mesh != "" }

// VaultRoot is the root of the Vault that the VirtualMesh names. cluster is where it is, unless it is in a file; nil when no
// cluster answers.
func (f *MeshFlags) VaultRoot(ctx context.Context, in io.Reader, timeout time.Duration, cluster *clusters.Cluster) (*x509.Certificate, error) {
	mesh, err := f.read(ctx, in, cluster)
	if err != nil {
		return nil, err
	}
	vault, err := Connect(mesh, f.Filename != "", timeout)
	if err != nil {
		return nil, err
	}
	vault.client.ClearToken() // the root is public
	text, err := vault.Root(ctx, mesh)
	if err != nil {
		return nil, err
	}
	roots, err := pemcerts.ParseRoots(text)
	if err != nil {
		return nil, fmt.Errorf("reading the root from Vault: %w", err)
	}
	return roots[0], nil
}

func (f *MeshFlags) read(ctx context.Context, in io.Reader, cluster *clusters.Cluster) (*networkingv1.VirtualMesh, error) {
	switch {
	case f.Filename != "":
		return ReadFile(f.Filename, in)
	case cluster == nil:
		return nil, errors.New("no context answers to read the VirtualMesh from; name a file with it by -f")
	}
	key, err := Find(ctx, cluster, f.Mesh)
	if err != nil {
		return nil, err
	}
	return ReadCluster(ctx, cluster, key.Namespace, key.Name)
}
