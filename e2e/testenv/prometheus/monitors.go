// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)

// object is a part of Prometheus's configuration, as YAML has it.
type object = map[string]any

// podMonitorJob returns the scrape configuration that the Prometheus operator makes of a PodMonitor's only endpoint:
// generatePodMonitorConfig in pkg/prometheus/promcfg.go, v0.85.0. It has the fields that the chart uses.
func podMonitorJob(m *monitoringv1.PodMonitor, kubeconfig string) (object, error) {
	if n := len(m.Spec.PodMetricsEndpoints); n != 1 {
		return nil, fmt.Errorf("PodMonitor %s has %d endpoints", m.Name, n)
	}
	endpoint := m.Spec.PodMetricsEndpoints[0]
	relabelings := append(selected("pod", m.Spec.Selector.MatchLabels), notRunning)
	if endpoint.Port != nil {
		relabelings = append(relabelings, keep(*endpoint.Port, "__meta_kubernetes_pod_container_port_name"))
	} else if endpoint.PortNumber != nil {
		relabelings = append(relabelings, keep(fmt.Sprint(*endpoint.PortNumber), "__meta_kubernetes_pod_container_port_number"))
	}
	relabelings = append(relabelings,
		label("namespace", "__meta_kubernetes_namespace"),
		label("container", "__meta_kubernetes_pod_container_name"),
		label("pod", "__meta_kubernetes_pod_name"),
		object{"target_label": "job", "replacement": m.Namespace + "/" + m.Name},
	)
	return withLimits(object{
		"job_name": "podMonitor/" + m.Namespace + "/" + m.Name + "/0", "honor_labels": endpoint.HonorLabels,
		"kubernetes_sd_configs":  discovery("pod", kubeconfig, m.Namespace, m.Spec.NamespaceSelector),
		"relabel_configs":        append(relabelings, own(endpoint.RelabelConfigs)...),
		"metric_relabel_configs": own(endpoint.MetricRelabelConfigs),
	}, endpoint.FollowRedirects, m.Spec.BodySizeLimit, map[string]*uint64{
		"sample_limit": m.Spec.SampleLimit, "label_limit": m.Spec.LabelLimit,
		"label_name_length_limit": m.Spec.LabelNameLengthLimit, "label_value_length_limit": m.Spec.LabelValueLengthLimit,
	}), nil
}

// serviceMonitorJob is podMonitorJob for a ServiceMonitor: generateServiceMonitorConfig, with EndpointSlices.
func serviceMonitorJob(m *monitoringv1.ServiceMonitor, kubeconfig string) (object, error) {
	if n := len(m.Spec.Endpoints); n != 1 {
		return nil, fmt.Errorf("ServiceMonitor %s has %d endpoints", m.Name, n)
	}
	endpoint := m.Spec.Endpoints[0]
	relabelings := append(selected("service", m.Spec.Selector.MatchLabels),
		keep(endpoint.Port, "__meta_kubernetes_endpointslice_port_name"),
		label("namespace", "__meta_kubernetes_namespace"),
		label("service", "__meta_kubernetes_service_name"),
		label("pod", "__meta_kubernetes_pod_name"),
		label("container", "__meta_kubernetes_pod_container_name"),
		notRunning,
		label("job", "__meta_kubernetes_service_name"),
		object{"target_label": "endpoint", "replacement": endpoint.Port},
	)
	return withLimits(object{
		"job_name": "serviceMonitor/" + m.Namespace + "/" + m.Name + "/0", "honor_labels": endpoint.HonorLabels,
		"kubernetes_sd_configs":  discovery("endpointslice", kubeconfig, m.Namespace, m.Spec.NamespaceSelector),
		"relabel_configs":        append(relabelings, own(endpoint.RelabelConfigs)...),
		"metric_relabel_configs": own(endpoint.MetricRelabelConfigs),
	}, endpoint.FollowRedirects, m.Spec.BodySizeLimit, map[string]*uint64{
		"sample_limit": m.Spec.SampleLimit, "label_limit": m.Spec.LabelLimit,
		"label_name_length_limit": m.Spec.LabelNameLengthLimit, "label_value_length_limit": m.Spec.LabelValueLengthLimit,
	}), nil
}

// withLimits adds to a job what its monitor limits.
func withLimits(job object, followRedirects *bool, bodySize *monitoringv1.ByteSize, counts map[string]*uint64) object {
	if followRedirects != nil {
		job["follow_redirects"] = *followRedirects
	}
	if bodySize != nil {
		job["body_size_limit"] = string(*bodySize)
	}
	for name, limit := range counts {
		if limit != nil {
			job[name] = *limit
		}
	}
	return job
}

func discovery(role, kubeconfig, namespace string, selector monitoringv1.NamespaceSelector) []object {
	config := object{"role": role, "kubeconfig_file": kubeconfig}
	if !selector.Any {
		names := selector.MatchNames
		if len(names) == 0 {
			names = []string{namespace}
		}
		config["namespaces"] = object{"names": names}
	}
	return []object{config}
}

// selected keeps the targets of objects with the labels.
func selected(kind string, labels map[string]string) (relabelings []object) {
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		source := regexp.MustCompile("[^a-zA-Z0-9_]").ReplaceAllString(name, "_")
		relabelings = append(relabelings, keep("("+labels[name]+");true", "__meta_kubernetes_"+kind+"_label_"+source, "__meta_kubernetes_"+kind+"_labelpresent_"+source))
	}
	return relabelings
}

var notRunning = object{"action": "drop", "source_labels": []string{"__meta_kubernetes_pod_phase"}, "regex": "(Failed|Succeeded)"}

func keep(regex string, sources ...string) object {
	return object{"action": "keep", "source_labels": sources, "regex": regex}
}

func label(name, source string) object {
	return object{"source_labels": []string{source}, "target_label": name}
}

// own translates the relabelings of a monitor.
func own(configs []monitoringv1.RelabelConfig) (relabelings []object) {
	for _, config := range configs {
		relabeling := object{}
		for key, value := range map[string]string{"action": strings.ToLower(config.Action), "target_label": config.TargetLabel, "regex": config.Regex} {
			if value != "" {
				relabeling[key] = value
			}
		}
		if config.Replacement != nil {
			relabeling["replacement"] = *config.Replacement
		}
		if len(config.SourceLabels) > 0 {
			relabeling["source_labels"] = config.SourceLabels
		}
		relabelings = append(relabelings, relabeling)
	}
	return relabelings
}
