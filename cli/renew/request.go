// SPDX-License-Identifier: Apache-2.0

package renew

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
)

// selectCertificates reads the IssuedCertificates to renew. failed are those that cannot be read.
func (f *flags) selectCertificates(ctx context.Context, cluster *clusters.Cluster, names []string) (selected []*certificatesv1.IssuedCertificate, failed []renewalOutcome) {
	fail := func(namespace, name, message string) {
		failed = append(failed, renewalOutcome{Context: cluster.Context, Namespace: namespace, Name: name, State: stateNotAsked, Message: message})
	}
	if f.all {
		objects, err := cluster.List(ctx, clusters.IssuedCertificateKind, client.InNamespace(f.namespace))
		if err != nil {
			fail(f.namespace, "", cluster.Explain("listing IssuedCertificates", "list", clusters.IssuedCertificates, err).Error())
			return nil, failed
		}
		for i := range objects {
			selected = append(selected, clusters.IssuedCertificate(&objects[i]))
		}
		if len(selected) == 0 {
			fail(f.namespace, "", "there is no IssuedCertificate; kubectl istiod-agent check shows the cause")
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
	object, err := cluster.Get(ctx, clusters.IssuedCertificateKind, key)
	switch {
	case err == nil:
		return clusters.IssuedCertificate(object), nil
	case client.IgnoreNotFound(err) == nil:
		return nil, fmt.Errorf("there is no IssuedCertificate %s; list them by %s get issuedcertificates -A", key, cluster.Kubectl())
	default:
		return nil, cluster.Explain("reading IssuedCertificate "+key.String(), "get", clusters.IssuedCertificates, err)
	}
}

// Request is `kubectl annotate issuedcertificate NAME istiod-agent.io/renew=NOW --overwrite`.
func Request(ctx context.Context, cluster *clusters.Cluster, certificate *certificatesv1.IssuedCertificate) (Requested, error) {
	annotations := map[string]any{certificatesv1.RenewAnnotation: time.Now().UTC().Format(time.RFC3339Nano)}
	err := cluster.Annotate(ctx, clusters.IssuedCertificateKind, client.ObjectKeyFromObject(certificate), annotations)
	return newRenewal(cluster, certificate), cluster.Explain("requesting a renewal", "patch", clusters.IssuedCertificates, err)
}

// await polls the status until every replica uses a new CA or waitCtx ends; r.remaining then holds what is missing. It
// returns the last poll's error, if that failed. Polls run within ctx: the end of waitCtx does not interrupt one, which
// would leave its result unknown.
func (r *Requested) await(ctx, waitCtx context.Context, update func(pending string)) error {
	var last error
	r.remaining = []string{"a response of the API server"}
	_ = wait.PollUntilContextCancel(waitCtx, pollInterval, true, func(context.Context) (bool, error) {
		object, err := r.cluster.Get(ctx, clusters.IssuedCertificateKind, client.ObjectKeyFromObject(r.certificate))
		if err != nil {
			if ctx.Err() == nil {
				last = r.cluster.Explain("reading the IssuedCertificate's status", "get", clusters.IssuedCertificates, err)
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
