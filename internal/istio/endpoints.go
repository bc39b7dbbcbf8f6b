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

var (
	// shardKey begins the key of a cluster's endpoints in that page's JSON: PROVIDER/CLUSTER (pilot/pkg/model/endpointshards.go,
	// ShardKey).
	shardKey = []byte(`"Kubernetes/`)
	// keyEnd follows the name in such a key, and a list follows that, in indented JSON after a space. A label of an endpoint may have
	// the same key, and always has a string as its value.
	keyEnd = []byte(`":`)
)

// WithoutEndpoints returns the clusters that istiod's page at EndpointsPath has no endpoints of. Its work is linear in the page,
// of which it holds 64 KiB at a time.
func WithoutEndpoints(page io.Reader, clusters []string) (missing []string, err error) {
	missing = slices.Clone(clusters)
	longest := 0
	for _, name := range clusters {
		longest = max(longest, len(name))
	}
	longest += len(shardKey) + len(keyEnd) + len(" [")
	buffer := make([]byte, 0, max(64<<10, 2*longest))
	for len(missing) > 0 {
		n, readErr := page.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		rest := buffer
		for {
			at := bytes.Index(rest, shardKey)
			if at < 0 {
				rest = rest[len(rest)-min(len(rest), len(shardKey)-1):]
				break
			}
			if rest = rest[at:]; len(rest) < longest && readErr == nil {
				break // its name may not be whole
			}
			name, value, _ := bytes.Cut(rest[len(shardKey):min(len(rest), longest)], keyEnd)
			if bytes.HasPrefix(bytes.TrimPrefix(value, []byte(" ")), []byte("[")) {
				missing = slices.DeleteFunc(missing, func(cluster string) bool { return cluster == string(name) })
			}
			rest = rest[len(shardKey):]
		}
		buffer = append(buffer[:0], rest...)
		switch {
		case errors.Is(readErr, io.EOF):
			return missing, nil
		case readErr != nil:
			return nil, readErr
		}
	}
	return missing, nil
}
