// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"fmt"
	"slices"
	"strings"
)

// relation of a path in istiod's container to CACertsPath.
type relation int

const (
	elsewhere relation = iota
	atCACerts
	aroundCACerts // above or below
	unclear       // a component "..", whose target depends on links
)

func relate(path string) relation {
	switch {
	case slices.Contains(strings.Split(path, "/"), ".."):
		return unclear
	case clean(path) == CACertsPath:
		return atCACerts
	case meets(path, CACertsPath):
		return aroundCACerts
	}
	return elsewhere
}

// problem describes the effect of a mount at such a path.
func (r relation) problem(path string) string {
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

// isTokenPath reports whether a path is TokenPath after cleaning.
func isTokenPath(path string) bool { return clean(path) == TokenPath }

// meets reports whether a path is at, above or below another.
func meets(path, other string) bool {
	path, other = strings.TrimSuffix(clean(path), "/")+"/", strings.TrimSuffix(other, "/")+"/"
	return strings.HasPrefix(path, other) || strings.HasPrefix(other, path)
}
