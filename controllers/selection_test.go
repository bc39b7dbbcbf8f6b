// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/patches"
)

// labelledNamespaces is what the cache holds of namespaces.
type labelledNamespaces []string

func (l labelledNamespaces) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	if slices.Contains(l, key.Name) {
		return nil
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, key.Name)
}

func (labelledNamespaces) List(context.Context, client.ObjectList, ...client.ListOption) error {
	panic("not asked for")
}

// A Deployment is an istiod where the webhook would inject it.
func TestNotSelected(t *testing.T) {
	for name, test := range map[string]struct {
		deployment string
		target     patches.Kind
		want       string
	}{
		"in a labelled namespace":             {`{metadata: {namespace: istio-system}}`, patches.Deployment, ""},
		"in another namespace":                {`{metadata: {namespace: tenant}}`, patches.Deployment, "its namespace is not labelled istiod-agent.io/injection=enabled"},
		"in kube-system":                      {`{metadata: {namespace: kube-system}}`, patches.Deployment, "kube-system is excluded"},
		"far larger than an istiod":           {`{metadata: {namespace: istio-system}, tooLarge: true}`, patches.Deployment, "far larger than an istiod"},
		"opted out by annotation":             {`{metadata: {namespace: istio-system, annotations: {istiod-agent.io/inject: "false"}}}`, patches.Deployment, "opted out"},
		"opted out by label":                  {`{metadata: {namespace: istio-system, labels: {istiod-agent.io/inject: "false"}}}`, patches.Deployment, "opted out"},
		"not opted out by another word":       {`{metadata: {namespace: istio-system, labels: {istiod-agent.io/inject: "no"}}}`, patches.Deployment, ""},
		"Pods are injected, and opted out":    {`{metadata: {namespace: istio-system}, spec: {template: {metadata: {labels: {istiod-agent.io/inject: "false"}}}}}`, patches.Pod, "opted out"},
		"Pods are injected, not a Deployment": {`{metadata: {namespace: istio-system, annotations: {istiod-agent.io/inject: "false"}}}`, patches.Pod, ""},
	} {
		t.Run(name, func(t *testing.T) {
			deployment := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(test.deployment), &deployment.Object); err != nil {
				t.Fatal(err)
			}
			got, err := NotSelected(t.Context(), labelledNamespaces{"istio-system"}, deployment, test.target)
			if err != nil || !strings.Contains(got, test.want) || test.want == "" && got != "" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
