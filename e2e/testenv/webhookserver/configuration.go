// SPDX-License-Identifier: Apache-2.0

package webhookserver

import (
	"bytes"
	"context"
	"maps"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// configuration returns the configuration file, changed to run on loopback.
func (w *Webhook) configuration(ctx context.Context) (map[string]any, error) {
	content, err := w.configurationFile(ctx)
	if err != nil {
		return nil, err
	}
	config := map[string]any{}
	if err := yaml.UnmarshalStrict(content, &config); err != nil {
		return nil, err
	}
	config = overlay(config, map[string]any{"server": map[string]any{
		"namespace":          w.release.Namespace,
		"servingCertificate": map[string]any{"dnsNames": []any{"localhost"}},
	}})
	return overlay(config, w.options.Configuration), nil
}

func (w *Webhook) configurationFile(ctx context.Context) ([]byte, error) {
	if w.options.File != "" {
		return os.ReadFile(w.options.File)
	}
	c, err := client.New(w.plane.Config, client.Options{})
	if err != nil {
		return nil, err
	}
	var configMap corev1.ConfigMap
	if err := c.Get(ctx, client.ObjectKey{Namespace: w.release.Namespace, Name: w.name()}, &configMap); err != nil {
		return nil, err
	}
	for name, content := range configMap.Data {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	return bytes.ReplaceAll([]byte(configMap.Data["config.yaml"]), []byte(mountPath), []byte(w.dir)), nil
}

// mountPath is where the chart's Deployment mounts the ConfigMap.
const mountPath = "/etc/istiod-agent-webhook"

func writeYAML(file string, content map[string]any) error {
	raw, err := yaml.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o600)
}

// overlay merges values into a copy of a configuration, mapping by mapping.
func overlay(config, over map[string]any) map[string]any {
	merged := maps.Clone(config)
	for key, value := range over {
		below, isMapping := merged[key].(map[string]any)
		if mapping, ok := value.(map[string]any); ok && isMapping {
			value = overlay(below, mapping)
		}
		merged[key] = value
	}
	return merged
}
