// SPDX-License-Identifier: Apache-2.0

package helm

import (
	"bytes"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/manifest"
)

// Patch changes a rendered object before it is applied.
type Patch func(*unstructured.Unstructured) error

// Run implements Helm's postrenderer.PostRenderer.
func (patch Patch) Run(rendered *bytes.Buffer) (*bytes.Buffer, error) {
	objects, err := manifest.Parse(rendered.Bytes())
	if err != nil {
		return nil, err
	}
	var patched bytes.Buffer
	for _, object := range objects {
		if err := patch(object); err != nil {
			return nil, err
		}
		document, err := yaml.Marshal(object.Object)
		if err != nil {
			return nil, err
		}
		patched.WriteString("---\n")
		patched.Write(document)
	}
	return &patched, nil
}
