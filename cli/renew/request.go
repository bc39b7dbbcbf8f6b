// SPDX-License-Identifier: Apache-2.0

package renew

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
)

// choose reads the IssuedCertificates to renew, and says which cannot be.
func (f *flags) selectCertificates(ctx context.Context, cluster *clusters.Cluster, names []string) (selected []*certificatesv1.IssuedCertificate, failed []Outcome) {
	fail := func(namespace, name, message string) {
		failed = append(failed, Outcome{Context: cluster.Context, Namespace: namespace, Name: name, State: NotAsked, Message: message})
	}
	if f.all {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind + "List"))
		if err := cluster.Client.List(ctx, list, client.InNamespace(f.namespace)); err != nil {
			fail(f.namespace, "", cluster.Explain("listing IssuedCertificates", "list", clusters.IssuedCertificates, err).Error())
			return nil, failed
		}
		for i := range list.Items {
			selected = append(selected, clusters.IssuedCertificate(&list.Items[i]))
		}
		if len(selected) == 0 {
			fail(f.namespace, "", "there is no IssuedCertificate; kubectl istiod-agent check says why")
		}
		return selected, failed
	}
	namespace := cmp.Or(f.namespace, "istio-system")
	for _, name := range names {
		certificate, err := Get(ctx, cluster, types.NamespacedName{Namespace: namespace, Name: name})
		if err != nil {
			fail(namespace, name, err.Error())
			continue
		}
		selected = append(selected, certificate)
	}
	return selected, failed
}

// Get reads an IssuedCertificate.
func Get(ctx context.Context, cluster *clusters.Cluster, key types.NamespacedName) (*certificatesv1.IssuedCertificate, error) {
	object := empty()
	err := cluster.Client.Get(ctx, key, object)
	switch {
	case err == nil:
		return clusters.IssuedCertificate(object), nil
	case client.IgnoreNotFound(err) == nil:
		return nil, fmt.Errorf("there is no IssuedCertificate %s; %s get issuedcertificates -A lists those that are there", key, cluster.Kubectl())
	default:
		return nil, cluster.Explain("reading IssuedCertificate "+key.String(), "get", clusters.IssuedCertificates, err)
	}
}

// Ask is `kubectl annotate issuedcertificate NAME istiod-agent.io/renew=NOW --overwrite`.
func Request(ctx context.Context, cluster *clusters.Cluster, certificate *certificatesv1.IssuedCertificate) (Renewal, error) {
	renewal := newRenewal(cluster, certificate)
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		certificatesv1.RenewAnnotation: time.Now().UTC().Format(time.RFC3339Nano),
	}}})
	if err != nil {
		return renewal, err
	}
	object := empty()
	object.SetNamespace(certificate.Namespace)
	object.SetName(certificate.Name)
	return renewal, cluster.Explain("asking for a renewal", "patch", clusters.IssuedCertificates,
		cluster.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), client.FieldOwner("kubectl-istiod_agent")))
}

// await reads the status until every replica has a new CA, or limited ends: then what is left of it stays in left. An
// answer that fails may succeed a moment later; one that still does at the end is the error. It asks within ctx, which the
// end of the waiting does not cut short: a question that is cut short is no answer.
func (r *Renewal) await(ctx, waitCtx context.Context, update func(pending string)) error {
	var last error
	r.remaining = []string{"an answer of the API server's"}
	_ = wait.PollUntilContextCancel(waitCtx, pollInterval, true, func(context.Context) (bool, error) {
		object := empty()
		if err := r.cluster.Client.Get(ctx, client.ObjectKeyFromObject(r.certificate), object); err != nil {
			if ctx.Err() == nil {
				last = r.cluster.Explain("reading how far it is", "get", clusters.IssuedCertificates, err)
			}
			return false, nil
		}
		last, r.certificate = nil, clusters.IssuedCertificate(object)
		if r.remaining = r.pending(r.certificate.Status); len(r.remaining) > 0 {
			update(strings.Join(r.remaining, "; "))
		}
		return len(r.remaining) == 0, nil
	})
	return last
}

func empty() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	return object
}
