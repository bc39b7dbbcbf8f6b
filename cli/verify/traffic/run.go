// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
)

// Cluster is a cluster to start Pods in.
type Cluster struct {
	*clusters.Cluster
	Istiod Istiod
	// Image of the Pods.
	Image string
}

// Matrix is the result of a run. All slices have the order of the clusters.
type Matrix struct {
	// Calls holds a client's results by server; the zero result where the pair was not tried.
	Calls [][]contract.Result
	// Errors are those of the clusters where the Pods did not start or end as expected.
	Errors []error
	// Left holds what could not be removed, with the command that removes it; empty where nothing is left.
	Left []string
}

// callLimit is the time for all calls of a client. It includes the time in which endpoints reach istiods, and the 15 seconds after
// which gRPC reports a service that istiod does not send.
const callLimit = 40 * time.Second

// Run starts the Pods in all clusters, lets every client call every server on its network, and removes them, also when ctx ends
// before. timeout is for the Pods to start.
func Run(ctx context.Context, all []Cluster, timeout time.Duration, progress *terminal.Progress) *Matrix {
	m := &Matrix{Calls: make([][]contract.Result, len(all)), Errors: make([]error, len(all)), Left: make([]string, len(all))}
	namespace := "istiod-agent-traffic-" + rand.String(5)
	runs := make([]*run, len(all))
	for i, c := range all {
		m.Calls[i] = make([]contract.Result, len(all))
		runs[i] = &run{
			Cluster: c, progress: progress,
			site: site{istiod: c.Istiod, namespace: namespace, index: i, image: c.Image, lifetime: timeout + callLimit + time.Minute},
		}
	}
	each := func(step func(i int)) {
		var pending sync.WaitGroup
		for i := range runs {
			pending.Go(func() { step(i) })
		}
		pending.Wait()
	}
	defer each(func(i int) { m.Left[i] = runs[i].remove(ctx) }) // each waits

	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	each(func(i int) { m.Errors[i] = runs[i].serve(limited, timeout) })
	each(func(i int) {
		var servers []int
		for j := range runs {
			if m.Errors[j] == nil && sameNetwork(all[i].Istiod, all[j].Istiod) {
				servers = append(servers, j)
			}
		}
		if !slices.Contains(servers, i) {
			return // it has an error
		}
		results, err := runs[i].call(ctx, servers)
		if err != nil {
			runs[i].err = err
			return
		}
		for at, j := range servers {
			m.Calls[i][j] = results[at]
		}
	})
	for i := range runs {
		m.Errors[i] = errors.Join(m.Errors[i], runs[i].err)
	}
	return m
}

// sameNetwork reports whether the Pods of two clusters reach each other directly. gRPC cannot pass a gateway between networks:
// istiod sends it no SNI (Istio pilot/pkg/networking/grpcgen).
func sameNetwork(a, b Istiod) bool { return a.Network == b.Network }

// run is a site with the means to set it up.
type run struct {
	Cluster
	site     site
	progress *terminal.Progress
	created  bool  // the namespace, perhaps
	err      error // of the client
}

// serve creates everything but the client and waits until the server is ready.
func (r *run) serve(ctx context.Context, limit time.Duration) error {
	r.progress.Update(r.Context, "starting a server in namespace %s", r.site.namespace)
	for _, object := range r.site.objects() {
		err := r.create(ctx, object)
		if _, ok := object.(*corev1.Namespace); ok {
			r.created = err == nil || !pods.Refused(err)
		}
		if err != nil {
			return err
		}
	}
	return r.await(ctx, serverPod, limit, pods.Ready("its certificate and its configuration from istiod"))
}

// call starts the client and returns its result for each server.
func (r *run) call(ctx context.Context, servers []int) ([]contract.Result, error) {
	const limit = callLimit + 30*time.Second
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r.progress.Update(r.Context, "starting a client")
	if err := r.create(ctx, r.site.client(callLimit, servers)); err != nil {
		return nil, err
	}
	var message string
	if err := r.await(ctx, clientPod, limit, pods.Ended("the answers of the servers", &message)); err != nil {
		return nil, err
	}
	targets := make([]string, len(servers))
	for at, index := range servers {
		targets[at] = target(index)
	}
	results, err := contract.Decode(message, targets)
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", r.site.namespace, clientPod, err)
	}
	return results, nil
}

func (r *run) await(ctx context.Context, name string, limit time.Duration, state pods.State) error {
	return pods.Await(ctx, r.Cluster.Cluster, client.ObjectKey{Namespace: r.site.namespace, Name: name}, limit, r.progress, state)
}

func (r *run) create(ctx context.Context, object client.Object) error {
	err := r.Client.Create(ctx, object)
	if err == nil {
		return nil
	}
	kinds, _, _ := r.Client.Scheme().ObjectKinds(object)
	kind := object.GetObjectKind().GroupVersionKind().Kind
	if len(kinds) > 0 {
		kind = kinds[0].Kind
	}
	return r.Explain(fmt.Sprintf("creating %s %s for the traffic", kind, object.GetName()), "create", resources[kind], err)
}

// resources of the created objects, for a message about a missing right.
var resources = map[string]string{
	"Namespace": "namespaces", "ServiceAccount": "serviceaccounts", "Service": "services", "Pod": "pods",
	"PeerAuthentication": "peerauthentications.security.istio.io", "DestinationRule": "destinationrules.networking.istio.io",
}

// remove deletes the namespace and waits until it is gone. The result is empty then. It continues when ctx has ended.
func (r *run) remove(ctx context.Context) (left string) {
	if !r.created {
		return ""
	}
	r.progress.Update(r.Context, "removing namespace %s", r.site.namespace)
	defer r.progress.Remove(r.Context)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.site.namespace}}
	return pods.Remove(ctx, r.Cluster.Cluster, "namespace", namespace)
}
