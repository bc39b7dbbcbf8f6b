// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
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
		if err := labelNetwork(ctx, t.cluster, t.Namespace, a.request.Networks[t.Context], dryRun); err != nil {
			return err
		}
		a.record(dryRun, i, nil, fmt.Sprintf("%s label namespace %s %s-", t.Kubectl, shell.Quote(t.Namespace), istio.NetworkLabel), func(ctx context.Context) (bool, error) {
			return true, labelNetwork(ctx, t.cluster, t.Namespace, nil, false)
		})
	}
	if !a.plan.Expose[i] {
		return nil
	}
	object := gateway(t.Namespace)
	if err := t.cluster.Client.Create(ctx, object, a.createOptions(dryRun)...); apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("Gateway %s/%s exists, but does not pass *.local through on port %d; change or delete it", t.Namespace, exposeGateway, istio.EastWestPort) //nolint:staticcheck // a kind
	} else if err != nil {
		return t.cluster.Explain("creating Gateway "+t.Namespace+"/"+exposeGateway, "create", "gateways.networking.istio.io", err)
	}
	a.record(dryRun, i, nil, fmt.Sprintf("%s delete gateways.networking.istio.io -n %s %s", t.Kubectl, shell.Quote(t.Namespace), exposeGateway), deletion(t.cluster, object))
	return nil
}

// labelNetwork sets the label, or removes it with nil.
func labelNetwork(ctx context.Context, cluster *clusters.Cluster, namespace string, network any, dryRun bool) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{istio.NetworkLabel: network}}})
	if err != nil {
		return err
	}
	options := []client.PatchOption{owner}
	if dryRun {
		options = append(options, client.DryRunAll)
	}
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	return cluster.Explain("labelling namespace "+namespace, "patch", "namespaces", cluster.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), options...))
}
