// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

// EndpointsPath is the page of istiod's monitoring port with all endpoints that it serves (pilot/pkg/xds/debug.go).
const EndpointsPath = "/debug/endpointShardz"

// WithoutEndpoints returns the clusters that istiod's page at EndpointsPath has no endpoints of. Its JSON groups them below
// PROVIDER/CLUSTER (pilot/pkg/model/endpointshards.go, ShardKey). It holds 64 KiB of the page at a time.
func WithoutEndpoints(page io.Reader, clusters []string) (missing []string, err error) {
	missing = slices.Clone(clusters)
	longest := 0
	keys := map[string][]byte{}
	for _, name := range clusters {
		keys[name] = []byte(`"Kubernetes/` + name + `":`)
		longest = max(longest, len(keys[name]))
	}
	buffer := make([]byte, 0, 64<<10)
	for len(missing) > 0 {
		n, readErr := page.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		missing = slices.DeleteFunc(missing, func(name string) bool { return bytes.Contains(buffer, keys[name]) })
		if keep := min(longest, len(buffer)); len(buffer) > cap(buffer)/2 {
			buffer = append(buffer[:0], buffer[len(buffer)-keep:]...)
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return missing, nil
		case readErr != nil:
			return nil, readErr
		}
	}
	return missing, nil
}
