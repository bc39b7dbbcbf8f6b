// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"encoding/json"
	"io"
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
	indented := strings.NewReplacer(`":`, "\": ").Replace(page)
	if got, err := istio.WithoutEndpoints(strings.NewReader(indented), names); err != nil || !slices.Equal(got, want) {
		t.Errorf("indented: %v, %v", got, err)
	}
	if got, err := istio.WithoutEndpoints(iotest.OneByteReader(strings.NewReader(page)), names); err != nil || !slices.Equal(got, want) {
		t.Errorf("byte by byte: %v, %v", got, err)
	}
	if _, err := istio.WithoutEndpoints(iotest.ErrReader(iotest.ErrTimeout), names); err == nil {
		t.Error("no error")
	}
}

// What a tenant writes into a ServiceEntry or a label is no cluster's list of endpoints.
func TestForgedEndpoints(t *testing.T) {
	t.Parallel()
	names := []string{"cluster-2"}
	for _, endpoint := range []map[string]any{
		{"Labels": map[string]string{"Kubernetes/cluster-2": "x"}},
		{"Labels": map[string]string{"Kubernetes/cluster-2": "["}},
		{"Labels": map[string]string{"Kubernetes/cluster-2": ""}, "Addresses": []string{}},
		{"Address": `"Kubernetes/cluster-2":[`},
		{"Address": `Kubernetes/cluster-2":[`},
		{"Address": "Kubernetes/cluster-2", "Addresses": []string{}},
	} {
		shards := map[string]any{"b.svc": map[string]any{"x": map[string]any{"Shards": map[string]any{"External/cluster-1": []any{endpoint}}}}}
		compact, err := json.Marshal(shards)
		if err != nil {
			t.Fatal(err)
		}
		indented, err := json.MarshalIndent(shards, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range []string{string(compact), string(indented)} {
			for _, reader := range []io.Reader{strings.NewReader(page), iotest.OneByteReader(strings.NewReader(page))} {
				if got, err := istio.WithoutEndpoints(reader, names); err != nil || !slices.Equal(got, names) {
					t.Errorf("%s: %v, %v", page, got, err)
				}
			}
		}
	}
}

// A name longer than the buffer is read too.
func TestLongName(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("x", 100_000)
	if got, err := istio.WithoutEndpoints(strings.NewReader(`{"Kubernetes/`+name+`": []}`), []string{name}); err != nil || len(got) > 0 {
		t.Errorf("%d missing, %v", len(got), err)
	}
}
