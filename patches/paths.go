// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"fmt"
	"strings"
)

// relation of a path in istiod's container to CACertsPath.
type relation int

const (
	elsewhere relation = iota
	atCACerts
	belowCACerts
	aboveCACerts
	unclear // a component "..", whose target depends on links
)

// relate resolves a path as the kubelet mounts it: relative paths start at the root, empty components and "." mean nothing.
func relate(path []byte) relation {
	depth, aside := 0, false
	for component := range bytes.SplitSeq(path, []byte{'/'}) {
		switch string(component) {
		case "", ".":
		case "..":
			return unclear
		default:
			aside = aside || (depth == 0 && string(component) != "etc") || (depth == 1 && string(component) != "cacerts")
			depth++
		}
	}
	switch {
	case aside:
		return elsewhere
	case depth < 2:
		return aboveCACerts
	case depth == 2:
		return atCACerts
	default:
		return belowCACerts
	}
}

// problem describes the effect of a mount at such a path.
func (r relation) problem(path []byte) string {
	if r == unclear {
		return fmt.Sprintf("mounts something at %s; write that path without %q", path, "..")
	}
	return fmt.Sprintf("mounts something at %s, which hides the agent's files; remove that mount", path)
}

// clean returns a path as the kubelet mounts it: from the root, without empty components and ".".
func clean(path string) string {
	var components []string
	for component := range strings.SplitSeq(path, "/") {
		if component != "" && component != "." {
			components = append(components, component)
		}
	}
	return "/" + strings.Join(components, "/")
}

// isTokenPath reports whether a path is tokenPath after cleaning.
func isTokenPath(path []byte) bool {
	return len(path) >= len(tokenPath)-1 && clean(string(path)) == tokenPath
}

// meets reports whether a path is at, above or below another.
func meets(path, other string) bool {
	path, other = strings.TrimSuffix(clean(path), "/")+"/", strings.TrimSuffix(other, "/")+"/"
	return strings.HasPrefix(path, other) || strings.HasPrefix(other, path)
}
