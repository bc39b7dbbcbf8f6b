// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/istiod-agent/istiod-agent/internal/version"
)

// Options of a command that starts Pods.
type Options struct {
	// Image of the Pods; by default Image of an istiod in the cluster.
	Image string
	// Timeout for the Pods to start.
	Timeout time.Duration
}

const (
	defaultTimeout = 2 * time.Minute
	imageFlag      = "traffic-image"
	timeoutFlag    = "traffic-timeout"
)

// Defaults are the options without a flag.
func Defaults() Options { return Options{Timeout: defaultTimeout} }

// Add registers the flags. of names the flag that starts the Pods. The help of a release has its image with the digest
// (docs/verify-release.md).
func (o *Options) Add(cmd *cobra.Command, of string) {
	fallback := ""
	if released != "" {
		fallback = ", or " + released
	}
	cmd.Flags().StringVar(&o.Image, imageFlag, "", "`image` of the Pods of "+of+" (default: istiod-agent-traffic from the registry of the cluster's istiod-agent"+fallback+")")
	cmd.Flags().DurationVar(&o.Timeout, timeoutFlag, defaultTimeout, "`time` limit for the Pods of "+of+" to start")
}

// released is the image of the plugin's own release, with its digest. The build of a release sets it (Makefile).
var released string

// ImageFor returns the image of the Pods in the cluster of an istiod, which may be nil. With the plugin's own release in the
// cluster, it is the one that the plugin names by its digest.
func (o *Options) ImageFor(istiod *corev1.Pod) string {
	installed := installedImage(istiod)
	if name, _, _ := strings.Cut(released, "@"); installed == name {
		installed = ""
	}
	return cmp.Or(o.Image, installed, released, "ghcr.io/istiod-agent/"+imageName+":"+ownTag())
}

const (
	agentName = "istiod-agent" // the agent's image, and the start of its containers' names (package patches)
	imageName = "istiod-agent-traffic"
)

// ownTag is the tag of the plugin's release.
func ownTag() string { return strings.TrimPrefix(version.Version, "v") }

// agentImage matches an image of the agent by its registry and repository, its tag and its digest (the reference's grammar in
// github.com/distribution/reference, of which it is a part).
var agentImage = regexp.MustCompile(`^((?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]{1,5})?/)?(?:[a-z0-9][a-z0-9._-]*/)*)` + agentName + `(?::([a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}))?(?:@sha256:[0-9a-f]{64})?$`)

// maxImage is the most bytes of an image's name.
const maxImage = 255

// installedImage returns the image beside the agent's in the same registry, with the same tag; empty where the istiod has no agent, or
// one of another name. An image that is named by its digest alone has the plugin's tag.
func installedImage(istiod *corev1.Pod) string {
	if istiod == nil {
		return ""
	}
	for _, container := range slices.Concat(istiod.Spec.Containers, istiod.Spec.InitContainers) {
		if !strings.HasPrefix(container.Name, agentName) || len(container.Image) > maxImage {
			continue
		}
		if parts := agentImage.FindStringSubmatch(container.Image); parts != nil {
			return parts[1] + imageName + ":" + cmp.Or(parts[2], ownTag())
		}
	}
	return ""
}
