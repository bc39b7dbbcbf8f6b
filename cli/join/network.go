// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/remotes"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/internal/istio"
)

// exposeGateway is the Gateway that passes all services through to other networks, by the name in Istio's samples
// (samples/multicluster/expose-services.yaml).
const exposeGateway = "cross-network-gateway"

// everyPartner is the value of remotes.PartnerLabel on an object for all other clusters.
const everyPartner = "all"

func gateway(namespace string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{
			"name": exposeGateway, "namespace": namespace,
			"labels": map[string]any{"app.kubernetes.io/managed-by": "istiod-agent", remotes.PartnerLabel: everyPartner},
		},
		"spec": map[string]any{
			"selector": map[string]any{"istio": "eastwestgateway"},
			"servers": []any{map[string]any{
				"port":  map[string]any{"number": int64(istio.EastWestPort), "name": "tls", "protocol": "TLS"},
				"tls":   map[string]any{"mode": "AUTO_PASSTHROUGH"},
				"hosts": []any{"*.local"},
			}},
		},
	}}
	object.SetGroupVersionKind(gatewayKind)
	return object
}

// writeNetwork labels istiod's namespace with its network, and exposes the cluster's services to other networks.
func (a *application) writeNetwork(ctx context.Context, i int, dryRun bool) error {
	t := a.targets[i]
	if a.plan.Label[i] {
		network := a.request.Networks[t.Context]
		found, err := t.relabel(ctx, "", network, dryRun)
		if found {
			a.record(dryRun, i, err, fmt.Sprintf("%s label namespace %s %s-", t.Kubectl, shell.Quote(t.Namespace), istio.NetworkLabel), func(ctx context.Context) (bool, error) {
				return t.relabel(ctx, network, "", false)
			})
		}
		switch {
		case err == nil && !found || apierrors.IsConflict(err):
			return fmt.Errorf("another client changed namespace %s meanwhile; run join again", t.Namespace)
		case err != nil:
			return err
		}
	}
	if !a.plan.Expose[i] {
		return nil
	}
	object := gateway(t.Namespace)
	err := t.cluster.Client.Create(ctx, object, a.createOptions(dryRun)...)
	a.record(dryRun, i, err, fmt.Sprintf("%s delete gateways.networking.istio.io -n %s %s", t.Kubectl, shell.Quote(t.Namespace), exposeGateway), deletion(t.cluster, object))
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("Gateway %s/%s exists, but does not pass *.local through on port %d; change or delete it", t.Namespace, exposeGateway, istio.EastWestPort) //nolint:staticcheck // a kind
	}
	return t.cluster.Explain("creating Gateway "+t.Namespace+"/"+exposeGateway, "create", "gateways.networking.istio.io", err)
}

// relabel changes the network of istiod's namespace, where "" is none. found is whether it was the given one: no other is changed.
func (t *target) relabel(ctx context.Context, from, to string, dryRun bool) (found bool, err error) {
	namespace := &corev1.Namespace{}
	if err := t.cluster.Client.Get(ctx, client.ObjectKey{Name: t.Namespace}, namespace); err != nil {
		return false, t.cluster.Explain("reading namespace "+t.Namespace, "get", "namespaces", err)
	}
	if namespace.Labels[istio.NetworkLabel] != from {
		return false, nil
	}
	before := namespace.DeepCopy()
	if delete(namespace.Labels, istio.NetworkLabel); to != "" {
		metav1.SetMetaDataLabel(&namespace.ObjectMeta, istio.NetworkLabel, to)
	}
	options := []client.PatchOption{owner}
	if dryRun {
		options = append(options, client.DryRunAll)
	}
	err = t.cluster.Client.Patch(ctx, namespace, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}), options...)
	return true, t.cluster.Explain("labelling namespace "+t.Namespace, "patch", "namespaces", err)
}
