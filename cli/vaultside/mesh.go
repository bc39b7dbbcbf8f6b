// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/files"
)

// ReadFile reads a VirtualMesh from a file, or from in for "-", validates it and sets its defaults.
func ReadFile(file string, in io.Reader) (*networkingv1.VirtualMesh, error) {
	content, name, err := files.ReadOrStdin(file, in, networkingv1.MaxFileSize)
	if err != nil {
		return nil, err
	}
	mesh, err := networkingv1.Decode(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	mesh.Spec.SetDefaults()
	if _, errs := mesh.Validate(); len(errs) > 0 {
		return nil, fmt.Errorf("%s: %w", name, errs.ToAggregate())
	}
	return mesh, nil
}

// readCluster reads a VirtualMesh from a cluster, validates it and sets its defaults.
func readCluster(ctx context.Context, cluster *clusters.Cluster, namespace, name string) (*networkingv1.VirtualMesh, error) {
	subject := fmt.Sprintf("VirtualMesh %s/%s of context %s", namespace, name, cluster.Context)
	object, err := cluster.Get(ctx, clusters.VirtualMeshKind, types.NamespacedName{Namespace: namespace, Name: name})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("reading %s: it does not exist; list them by %s get virtualmeshes -A", subject, cluster.Kubectl())
	case meta.IsNoMatchError(err):
		return nil, fmt.Errorf("reading %s: the CRD is not installed; install the chart, or read the VirtualMesh from a file by -f", subject)
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w; check the context and your permission to get virtualmeshes, or read it from a file by -f", subject, err)
	}
	mesh, _, errs := networkingv1.FromObject(object.Object)
	mesh.Spec.SetDefaults()
	if _, more := mesh.Validate(); len(errs)+len(more) > 0 {
		return nil, fmt.Errorf("%s: %w", subject, append(errs, more...).ToAggregate())
	}
	return mesh, nil
}

// Find returns the key of a VirtualMesh: the one given as NAMESPACE/NAME, or the only one in the cluster.
func Find(ctx context.Context, cluster *clusters.Cluster, fromFile string) (key types.NamespacedName, err error) {
	if fromFile != "" {
		var found bool
		if key.Namespace, key.Name, found = strings.Cut(fromFile, "/"); !found || key.Namespace == "" || key.Name == "" {
			return key, fmt.Errorf("--virtual-mesh %q: expected NAMESPACE/NAME", fromFile)
		}
		return key, nil
	}
	meshes, err := cluster.List(ctx, clusters.VirtualMeshKind)
	if err != nil {
		return key, cluster.Explain("listing VirtualMeshes", "list", clusters.VirtualMeshes, err)
	}
	names := make([]string, len(meshes))
	for i := range meshes {
		key = client.ObjectKeyFromObject(&meshes[i])
		names[i] = key.String()
	}
	switch len(names) {
	case 0:
		return key, fmt.Errorf("there is no VirtualMesh in context %s; see kubectl istiod-agent check", cluster.Context)
	case 1:
		return key, nil
	default:
		return key, fmt.Errorf("there are several VirtualMeshes, %s; choose one by --virtual-mesh", strings.Join(names, ", "))
	}
}

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

// VaultRoot reads the root from the Vault that the VirtualMesh names. cluster has the VirtualMesh, unless it is in a file; nil
// where no cluster could be read.
func (f *MeshFlags) VaultRoot(ctx context.Context, in io.Reader, timeout time.Duration, cluster *clusters.Cluster) (*x509.Certificate, error) {
	mesh, err := f.read(ctx, in, cluster)
	if err != nil {
		return nil, err
	}
	vault, err := Connect(mesh, f.Filename != "", timeout)
	if ca := mesh.Spec.IntermediateCA(); err != nil && ca != nil && ca.CertManager != nil {
		return nil, fmt.Errorf("%w; give the root in a file, by --root or --new-root", err)
	}
	if err != nil {
		return nil, err
	}
	vault.client.ClearToken() // the root is public
	return vault.root(ctx, mesh)
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
	return readCluster(ctx, cluster, key.Namespace, key.Name)
}
