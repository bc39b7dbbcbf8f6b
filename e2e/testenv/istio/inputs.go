// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
)

// variants are values of Istio's chart that change istiod's Deployment.
var variants = map[string]helm.Values{
	"default":       {},
	"revisioned":    {"revision": "canary"},
	"ambient":       {"profile": "ambient"},
	"openshift":     {"platform": "openshift"},
	"gke":           {"platform": "gke"},
	"no autoscaler": {"autoscaleEnabled": false, "replicaCount": 2},
	"own containers, volumes and variables": {
		"initContainers": []any{helm.Values{"name": "wait", "image": "busybox", "command": []any{"true"}}},
		"volumes":        []any{helm.Values{"name": "extra", "configMap": helm.Values{"name": "extra"}}},
		"volumeMounts":   []any{helm.Values{"name": "extra", "mountPath": "/extra"}},
		"env":            helm.Values{"PILOT_ENABLE_STATUS": "true"},
		"envVarFrom":     []any{helm.Values{"name": "A_SECRET", "valueFrom": helm.Values{"secretKeyRef": helm.Values{"name": "s", "key": "k", "optional": true}}}},
	},
	"trusts extra roots": {"meshConfig": helm.Values{"caCertificates": []any{}}, "jwksResolverExtraRootCA": "-----BEGIN CERTIFICATE-----"},
	"placed on nodes":    {"nodeSelector": helm.Values{"a": "b"}, "tolerations": []any{helm.Values{"key": "k", "operator": "Exists"}}, "seccompProfile": helm.Values{"type": "RuntimeDefault"}},
	"external istiod":    {"env": helm.Values{"EXTERNAL_ISTIOD": "true", "USE_REMOTE_CERTS": "true"}},
}

// Inputs returns istiod Deployments by name: the variants of Istio's chart and, if the folder exists, those of
// ../shared/istiod beside this repository (other releases and distributions).
func Inputs(ctx context.Context, namespace string) (map[string]*unstructured.Unstructured, error) {
	inputs := map[string]*unstructured.Unstructured{}
	for name, values := range variants {
		deployment, err := Deployment(ctx, namespace, Values(namespace, "1.31.0", values))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		inputs["chart: "+name] = deployment
	}

	root, err := built.Root()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(root, "..", "shared", "istiod", "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		objects, err := manifest.Parse(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, object := range objects {
			if object.GetKind() == "Deployment" && object.GetLabels()["app"] == "istiod" {
				object.SetNamespace(namespace)
				inputs[filepath.Base(file)+": "+object.GetName()] = object
			}
		}
	}
	return inputs, nil
}
