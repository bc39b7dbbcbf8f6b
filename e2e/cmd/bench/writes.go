// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/controlplane"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

// counter counts what the program writes, by the API server's audit log.
type counter struct {
	plane *controlplane.ControlPlane
	seen  int
}

// counted are numbers of writes, by verb and resource.
type counted map[string]int

func (c counted) total() (total int) {
	for _, n := range c {
		total += n
	}
	return total
}

func (c counted) String() string {
	if len(c) == 0 {
		return "no write"
	}
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(c)) {
		parts = append(parts, fmt.Sprintf("%s: %d", what, c[what]))
	}
	return strings.Join(parts, ", ")
}

// since counts the writes since it was last asked. The leader's are counted apart: its lease, which it has to renew for as
// long as it leads, and the Event that says on the lease who leads now. Asking what a service account, or the
// program itself, may (SubjectAccessReview, SelfSubjectAccessReview) is no write.
func (c *counter) since() (writes counted, leaders int, err error) {
	user, _ := controlplane.ServiceAccount(webhookserver.Release.Namespace, webhookserver.Name)
	all, err := c.plane.Requests(user)
	if err != nil {
		return nil, 0, err
	}
	writes = counted{}
	for _, event := range all[c.seen:] {
		resource := event.ObjectRef.Resource
		if event.ObjectRef.Subresource != "" {
			resource += "/" + event.ObjectRef.Subresource
		}
		switch {
		case !event.Write(), resource == "subjectaccessreviews", resource == "selfsubjectaccessreviews":
		case resource == "leases", resource == "events" && event.ObjectRef.Namespace == webhookserver.Release.Namespace:
			leaders++
		default:
			writes[event.Verb+" "+resource]++
		}
	}
	c.seen = len(all)
	return writes, leaders, nil
}
