// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

// unifiedDifference compares two Deployments as YAML, without the status and the metadata of the API server and Helm.
func unifiedDifference(applied, stored *appsv1.Deployment) (string, error) {
	before, err := written(applied)
	if err != nil {
		return "", err
	}
	after, err := written(stored)
	if err != nil {
		return "", err
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(before), FromFile: "applied (the API server's defaults filled in)",
		B: difflib.SplitLines(after), ToFile: "stored",
		Context: 3,
	})
}

func written(deployment *appsv1.Deployment) (string, error) {
	annotations, labels := maps.Clone(deployment.Annotations), maps.Clone(deployment.Labels)
	maps.DeleteFunc(annotations, func(key, _ string) bool { return strings.HasPrefix(key, "meta.helm.sh/") })
	delete(labels, "app.kubernetes.io/managed-by")
	metadata := map[string]any{"name": deployment.Name, "labels": labels}
	if len(annotations) > 0 {
		metadata["annotations"] = annotations
	}
	text, err := yaml.Marshal(map[string]any{"metadata": metadata, "spec": deployment.Spec})
	return string(text), err
}
