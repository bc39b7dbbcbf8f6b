// SPDX-License-Identifier: Apache-2.0

package istiods

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/controllers"
	"github.com/istiod-agent/istiod-agent/patches"
)

// scrapeTimeout bounds reading the cache for one scrape.
const scrapeTimeout = 5 * time.Second

var replicasDesc = prometheus.NewDesc("istiod_agent_istiod_replicas",
	"Available Pods of injected istiod Deployments: as many agents should be seen. Only the leader reports.",
	[]string{"namespace"}, nil)

var istiodsDesc = prometheus.NewDesc("istiod_agent_istiods",
	"Istiod Deployments in namespaces that have opted in, by state: injected, outdated, missing, skipped. Only the leader reports.",
	[]string{"namespace", "state"}, nil)

// gauge counts istiods from the cache at each scrape, so that it always matches the stored objects.
type gauge struct {
	istiods *Controller
	elected <-chan struct{}
}

// Describe implements prometheus.Collector.
func (g *gauge) Describe(descs chan<- *prometheus.Desc) {
	descs <- istiodsDesc
	descs <- replicasDesc
}

// Collect implements prometheus.Collector.
func (g *gauge) Collect(out chan<- prometheus.Metric) {
	select {
	case <-g.elected:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	byNamespace, err := g.istiods.count(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(istiodsDesc, err)
		return
	}
	for namespace, counts := range byNamespace {
		out <- prometheus.MustNewConstMetric(replicasDesc, prometheus.GaugeValue, float64(counts.replicas), namespace)
		for state, n := range counts.states {
			out <- prometheus.MustNewConstMetric(istiodsDesc, prometheus.GaugeValue, float64(n), namespace, string(state))
		}
	}
}

// counts are the istiods of a namespace by state, and the available Pods of those with the agent.
type counts struct {
	states   map[patches.State]int
	replicas int64
}

// count counts istiods by namespace and state, with zero for absent states.
func (r *Controller) count(ctx context.Context) (map[string]*counts, error) {
	namespaces := &metav1.PartialObjectMetadataList{}
	namespaces.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := r.client.List(ctx, namespaces); err != nil {
		return nil, err
	}
	byNamespace := map[string]*counts{}
	for _, namespace := range namespaces.Items {
		current := &counts{states: map[patches.State]int{patches.StateInjected: 0, patches.StateOutdated: 0, patches.StateMissing: 0, patches.StateSkipped: 0}}
		byNamespace[namespace.Name] = current
		istiods, err := controllers.List(ctx, r.client, controllers.DeploymentKind, client.InNamespace(namespace.Name))
		if err != nil {
			return nil, err
		}
		for i := range istiods {
			found, err := r.inspect(ctx, &istiods[i])
			if err != nil {
				return nil, err
			}
			current.states[found.state]++
			if found.state == patches.StateInjected || found.state == patches.StateOutdated {
				available, _, _ := unstructured.NestedInt64(istiods[i].Object, "status", "availableReplicas")
				current.replicas += available
			}
		}
	}
	return byNamespace, nil
}
