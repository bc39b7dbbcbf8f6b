// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/files"
)

// ReadFile reads a VirtualMesh from a file, or from in when that is -. Its defaults are filled in, and it has no mistakes.
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

// ReadCluster reads a VirtualMesh from a cluster, to the same end.
func ReadCluster(ctx context.Context, cluster *clusters.Cluster, namespace, name string) (*networkingv1.VirtualMesh, error) {
	what := fmt.Sprintf("VirtualMesh %s/%s of context %s", namespace, name, cluster.Context)
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind))
	err := cluster.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("reading %s: it is not there; kubectl --context=%s get virtualmeshes -A lists those that are", what, cluster.Context)
	case meta.IsNoMatchError(err):
		return nil, fmt.Errorf("reading %s: the CRD is not installed there; install the chart, or read the VirtualMesh from a file by -f", what)
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w; check the context, and that you may get virtualmeshes, or read it from a file by -f", what, err)
	}
	mesh, _, errs := networkingv1.FromObject(object.Object)
	mesh.Spec.SetDefaults()
	if _, more := mesh.Validate(); len(errs)+len(more) > 0 {
		return nil, fmt.Errorf("%s: %w", what, errors.Join(append(errs, more...).ToAggregate()))
	}
	return mesh, nil
}

// Find names the VirtualMesh of a cluster that is meant: the one given as NAMESPACE/NAME, or the only one.
func Find(ctx context.Context, cluster *clusters.Cluster, fromFile string) (key types.NamespacedName, err error) {
	if fromFile != "" {
		var observed bool
		if key.Namespace, key.Name, observed = strings.Cut(fromFile, "/"); !observed || key.Namespace == "" || key.Name == "" {
			return key, fmt.Errorf("--virtual-mesh %q: expected NAMESPACE/NAME", fromFile)
		}
		return key, nil
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(networkingv1.GroupVersion.WithKind(networkingv1.Kind + "List"))
	if err := cluster.Client.List(ctx, list); err != nil {
		return key, cluster.Explain("listing VirtualMeshes", "list", "virtualmeshes.networking.mesh.gloo.solo.io", err)
	}
	names := make([]string, len(list.Items))
	for i := range list.Items {
		key = client.ObjectKeyFromObject(&list.Items[i])
		names[i] = key.String()
	}
	switch len(names) {
	case 0:
		return key, fmt.Errorf("there is no VirtualMesh in context %s; kubectl istiod-agent check says more", cluster.Context)
	case 1:
		return key, nil
	default:
		return key, fmt.Errorf("there are several VirtualMeshes, %s; name the one that is meant by --virtual-mesh", strings.Join(names, ", "))
	}
}
