// SPDX-License-Identifier: Apache-2.0

package clusters

import (
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/istiod-agent/istiod-agent/internal/helm"
)

// Explain adds to an error of the API server what the caller was doing and what the person can do about it. verb and
// resource name the permission that the request needs.
func (c *Cluster) Explain(doing, verb, resource string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: %w; get the right to %s %s (%s)", doing, err, verb, resource, c.canI(verb, resource))
	case meta.IsNoMatchError(err) || apierrors.IsNotFound(err) && strings.Contains(err.Error(), "could not find the requested resource"):
		return fmt.Errorf("%s: the cluster has no %s; install the CRDs: %s", doing, resource, helm.Install("--set crds.install=true"))
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%s: %w", doing, err)
	default:
		return fmt.Errorf("%s: %w; check the cluster's address and your login: %s version", doing, err, c.Kubectl())
	}
}

// canI returns the command that checks a permission. kubectl reads a slash as TYPE/NAME, so a subresource needs a flag.
func (c *Cluster) canI(verb, resource string) string {
	resource, subresource, found := strings.Cut(resource, "/")
	if found {
		resource += " --subresource=" + subresource
	}
	return c.Kubectl() + " auth can-i " + verb + " " + resource + " -A"
}

// Kubectl returns kubectl with the flags for this cluster and user, to begin a printed command.
func (c *Cluster) Kubectl() string { return "kubectl" + c.arguments }
