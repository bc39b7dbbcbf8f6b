// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"strings"
)

// isMirrorOf tells whether an image is the wanted one, or has its path and tag in another registry, or is pinned there by
// its digest.
func isMirrorOf(image, desired string) bool {
	image, digest, pinned := strings.Cut(image, "@")
	desired, enabled, _ := strings.Cut(desired, "@")
	if pinned && digest != "" && tag(image) == "" {
		desired = strings.TrimSuffix(desired, ":"+tag(desired))
	}
	if enabled != "" && enabled != digest {
		return false
	}
	_, path, registry := strings.Cut(desired, "/")
	return image == desired || registry && path != "" && strings.HasSuffix(image, "/"+path)
}

// name of an image: the last component of its path.
func name(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndex(image, "/")+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}

// tag of an image, "" for none.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return tag
}
