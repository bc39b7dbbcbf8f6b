// SPDX-License-Identifier: Apache-2.0

// Package prometheus runs Prometheus's own packages on what the chart gives it: it discovers and scrapes the targets of the
// chart's monitors, evaluates the chart's alerts, and answers the queries of the chart's dashboard.
package prometheus

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
)

// Objects are the chart's objects for Prometheus and Grafana.
type Objects struct {
	PodMonitor     monitoringv1.PodMonitor
	ServiceMonitor monitoringv1.ServiceMonitor
	Rule           monitoringv1.PrometheusRule
	Dashboard      corev1.ConfigMap
}

// FromChart renders the chart with these values and with all of its objects for Prometheus and Grafana. A field that the
// Prometheus operator's API does not have is an error.
func FromChart(ctx context.Context, release helm.Release, values helm.Values) (*Objects, error) {
	root, err := built.Root()
	if err != nil {
		return nil, err
	}
	chart, err := loader.Load(filepath.Join(root, "charts", "istiod-agent"))
	if err != nil {
		return nil, err
	}
	all := helm.Values{}
	maps.Copy(all, values)
	for _, name := range []string{"podMonitor", "serviceMonitor", "prometheusRule", "dashboard"} {
		part := helm.Values{"enabled": true}
		if given, ok := values[name].(helm.Values); ok {
			maps.Copy(part, given)
		}
		all[name] = part
	}
	rendered, err := helm.Render(ctx, release, chart, all)
	if err != nil {
		return nil, err
	}
	objects, err := manifest.Parse([]byte(rendered))
	if err != nil {
		return nil, err
	}
	o := &Objects{}
	for _, object := range objects {
		if into := o.kind(object); into != nil {
			if err := decode(object, into); err != nil {
				return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
			}
		}
	}
	return o, nil
}

// kind returns where to decode an object, nil for nowhere.
func (o *Objects) kind(object *unstructured.Unstructured) any {
	switch object.GetKind() {
	case monitoringv1.PodMonitorsKind:
		return &o.PodMonitor
	case monitoringv1.ServiceMonitorsKind:
		return &o.ServiceMonitor
	case monitoringv1.PrometheusRuleKind:
		return &o.Rule
	case "ConfigMap":
		if object.GetLabels()["grafana_dashboard"] != "" {
			return &o.Dashboard
		}
	}
	return nil
}

func decode(object *unstructured.Unstructured, into any) error {
	content, err := object.MarshalJSON()
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(content, into)
}
