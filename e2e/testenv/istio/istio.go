// SPDX-License-Identifier: Apache-2.0

// Package istio renders and applies Istio's own charts, from its Go module, as Helm and istioctl do.
package istio

import (
	"context"
	"fmt"
	"io/fs"
	"maps"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"istio.io/istio/manifests"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
)

// Base loads chart istio/base: the CRDs, and the objects that all revisions share.
func Base() (*chart.Chart, error) { return load("charts/base") }

// Discovery loads chart istio/istiod.
func Discovery() (*chart.Chart, error) { return load("charts/istio-control/istio-discovery") }

// Values returns values with istiod's namespace and the tag of its image, without which the chart renders an invalid image.
func Values(namespace, tag string, more ...helm.Values) helm.Values {
	values := helm.Values{"global": helm.Values{"hub": "docker.io/istio", "tag": tag, "istioNamespace": namespace}}
	for _, m := range more {
		maps.Copy(values, m)
	}
	return values
}

// Manifests renders the objects that `istioctl install` or `helm install istiod` applies.
func Manifests(ctx context.Context, namespace string, values helm.Values) ([]*unstructured.Unstructured, error) {
	discovery, err := Discovery()
	if err != nil {
		return nil, err
	}
	rendered, err := helm.Render(ctx, helm.Release{Name: "istiod", Namespace: namespace}, discovery, values)
	if err != nil {
		return nil, err
	}
	return manifest.Parse([]byte(rendered))
}

// Deployment renders istiod's Deployment alone.
func Deployment(ctx context.Context, namespace string, values helm.Values) (*unstructured.Unstructured, error) {
	objects, err := Manifests(ctx, namespace, values)
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if object.GetKind() == "Deployment" {
			object.SetNamespace(namespace)
			return object, nil
		}
	}
	return nil, fmt.Errorf("the chart renders no Deployment with values %v", values)
}

// ApplyAsIstioctl applies objects as istioctl does: server-side as manager istio-operator, forcing conflicts
// (operator/pkg/install in Istio).
func ApplyAsIstioctl(ctx context.Context, c client.Client, namespace string, objects ...*unstructured.Unstructured) error {
	for _, object := range objects {
		object = object.DeepCopy()
		if namespaced, err := c.IsObjectNamespaced(object); err != nil {
			return err
		} else if namespaced && object.GetNamespace() == "" {
			object.SetNamespace(namespace)
		}
		configuration := client.ApplyConfigurationFromUnstructured(object)
		if err := c.Apply(ctx, configuration, client.ForceOwnership, client.FieldOwner("istio-operator")); err != nil {
			return fmt.Errorf("applying %s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

func load(path string) (*chart.Chart, error) {
	dir, err := fs.Sub(manifests.FS, path)
	if err != nil {
		return nil, err
	}
	var files []*archive.BufferedFile
	err = fs.WalkDir(dir, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(dir, name)
		files = append(files, &archive.BufferedFile{Name: name, Data: content})
		return err
	})
	if err != nil {
		return nil, err
	}
	return loader.LoadFiles(files)
}
