// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

func TestWithoutEndpoints(t *testing.T) {
	t.Parallel()
	page := `{"a.svc":{"default":{"Shards":{"Kubernetes/one":[{}],"Kubernetes/two":[]}}},"b":{"x":{"Shards":{"External/three":[]}}}}`
	names := []string{"one", "two", "three", "tw"}
	want := []string{"three", "tw"}
	for name, text := range map[string]string{"short": page, "long": strings.Repeat(" ", 100_000) + page + strings.Repeat(" ", 100_000), "across a border": strings.Repeat(" ", 64<<10-50) + page} {
		if got, err := istio.WithoutEndpoints(strings.NewReader(text), names); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := istio.WithoutEndpoints(iotest.OneByteReader(strings.NewReader(page)), names); err != nil || !slices.Equal(got, want) {
		t.Errorf("byte by byte: %v, %v", got, err)
	}
	if _, err := istio.WithoutEndpoints(iotest.ErrReader(iotest.ErrTimeout), names); err == nil {
		t.Error("no error")
	}
}
