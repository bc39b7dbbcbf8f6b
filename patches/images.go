// SPDX-License-Identifier: Apache-2.0

package patches

import "strings"

// isMirrorOf reports whether an image is the desired one, or has its path and tag, or its digest, in another registry.
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

// name returns the last component of an image's path.
func name(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndex(image, "/")+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}

// tag returns an image's tag, "" if it has none.
func tag(image string) string {
	image, _, _ = strings.Cut(image, "@")
	_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return tag
}
