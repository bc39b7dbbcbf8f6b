// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
)

// MeshFlags choose a VirtualMesh, for the commands that may need one.
type MeshFlags struct {
	// Filename is a file name, - for standard input.
	Filename string
	// Mesh is NAMESPACE/NAME in a cluster.
	Mesh string
}

// Add registers the flags; purpose is the flag that needs the VirtualMesh.
func (f *MeshFlags) Add(cmd *cobra.Command, purpose string) {
	cmd.Flags().StringVarP(&f.Filename, "filename", "f", "", "`file` with the VirtualMesh for "+purpose+", - for standard input (default: the only VirtualMesh in the first context)")
	cmd.Flags().StringVar(&f.Mesh, "virtual-mesh", "", "`namespace/name` of the VirtualMesh for "+purpose+", in the first context")
	cmd.MarkFlagsMutuallyExclusive("filename", "virtual-mesh")
}

// Given reports whether a flag is set.
func (f *MeshFlags) Given() bool { return f.Filename != "" || f.Mesh != "" }

// VaultRoot reads the root from the Vault that the VirtualMesh names. cluster has the VirtualMesh, unless it is in a file; nil
// where no cluster could be read.
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
	return vault.Root(ctx, mesh)
}

func (f *MeshFlags) read(ctx context.Context, in io.Reader, cluster *clusters.Cluster) (*networkingv1.VirtualMesh, error) {
	switch {
	case f.Filename != "":
		return ReadFile(f.Filename, in)
	case cluster == nil:
		return nil, errors.New("no context could be read for the VirtualMesh; name a file with it by -f")
	}
	key, err := Find(ctx, cluster, f.Mesh)
	if err != nil {
		return nil, err
	}
	return ReadCluster(ctx, cluster, key.Namespace, key.Name)
}
