// SPDX-License-Identifier: Apache-2.0

package join

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/plugin"
)

var errNotYet = errors.New("not yet")

// The way of a person: join, see endpoints of the other cluster, renew, leave.
func TestJoin(t *testing.T) {
	root := newRoot()
	first, second := newSide(t, one, "cluster-1", root, nil), newSide(t, two, "cluster-2", root, nil)
	config := contexts(t, map[string]*cluster.Cluster{"cluster-1": one, "cluster-2": two})
	first.service(t, "local", "10.1.0.1")
	second.service(t, "remote", "10.2.0.1")

	run(t, config, both("join", "--dry-run")...).Wants(t, 1, "cluster-1: the kubeconfig's server https://127.0.0.1:", "--api-server cluster-1=https://HOST:PORT", "cluster-2: ")
	run(t, config, joinBoth("--dry-run")...).Wants(t, 0, "cluster-1: remote secret for cluster-2 would be created", "Next: kubectl istiod-agent join --context=cluster-1")
	run(t, config, both("leave")...).Wants(t, 0, "cluster-1: no object of join remains", "cluster-2: no object of join remains")
	run(t, config, joinBoth()...).Wants(t, 0, "cluster-1: remote secret for cluster-2 created, expires ", "cluster-1: every istiod has endpoints of the other clusters", "cluster-2: every istiod has endpoints")
	must(t, first.serves(t.Context(), "cluster-2", "remote", "10.2.0.1"))
	must(t, second.serves(t.Context(), "cluster-1", "local", "10.1.0.1"))
	run(t, config, joinBoth()...).Wants(t, 0, "cluster-1: remote secret for cluster-2 kept, expires ")

	// An account that is made anew has another UID: its old tokens are invalid.
	must(t, second.Delete(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istiod-agent-remote-cluster-1"}}))
	served := func() error { return first.serves(t.Context(), "cluster-2", "remote", "10.2.0.1") }
	first.rollout(t, func() plugin.Result { return run(t, config, joinBoth()...) }, served).Wants(t, 0,
		"cluster-1: token for cluster-2 renewed: the account of its token was deleted, expires ", "cluster-2: remote secret for cluster-1 kept", "cluster-1: istiod restarted")
	second.service(t, "later", "10.2.0.2")
	first.wantServed(t, "cluster-2", "later", "10.2.0.2")

	run(t, config, both("leave")...).Wants(t, 0, "cluster-1: Secret istio-system/istio-remote-secret-cluster-2 removed", "cluster-2: ServiceAccount istio-system/istiod-agent-remote-cluster-1 removed")
	cluster.Eventually(t, "istiod serves nothing of cluster-2", func() error {
		if served() == nil {
			return fmt.Errorf("the endpoint is still there")
		}
		return nil
	})
	run(t, config, both("leave")...).Wants(t, 0, "cluster-1: no object of join remains")
}
