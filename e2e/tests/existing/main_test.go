// SPDX-License-Identifier: Apache-2.0

// Package existing tests the injection into existing istiods: after a label on their namespace, after a change of the
// configuration, and after a change of the leader.
package existing

import (
	"fmt"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var shared *cluster.Cluster

func TestMain(m *testing.M) {
	cluster.Main(m, &shared, &webhookserver.Options{Replicas: 2, Configuration: image("1")})
}

// image is a configuration's agent image, by its tag.
func image(tag string) map[string]any {
	return map[string]any{"agent": map[string]any{"image": "registry.example/istiod-agent:" + tag}}
}

// wantState waits until the leader's gauge counts one istiod of a namespace in this state and none in another.
func wantState(t *testing.T, namespace, state string) {
	t.Helper()
	cluster.Eventually(t, "the gauge counts one istiod as "+state, func() error {
		leader, err := leader(t)
		if err != nil {
			return err
		}
		for _, each := range []string{"injected", "outdated", "missing", "skipped"} {
			want := 0.0
			if each == state {
				want = 1
			}
			count, _, err := leader.Sum(t.Context(), fmt.Sprintf("istiod_agent_istiods{namespace=%q,state=%q}", namespace, each))
			if err != nil {
				return err
			}
			if count != want {
				return fmt.Errorf("%v are %s", count, each)
			}
		}
		return nil
	})
}

// leader returns the replica that counts istiods. It counts namespaces without istiods too, so that the metric exists.
func leader(t *testing.T) (*webhookserver.Replica, error) {
	var leaders []*webhookserver.Replica
	for _, replica := range shared.Webhook.Replicas {
		_, counts, err := replica.Sum(t.Context(), "istiod_agent_istiods{")
		if err != nil {
			return nil, err
		}
		if counts {
			leaders = append(leaders, replica)
		}
	}
	if len(leaders) != 1 {
		return nil, fmt.Errorf("%d replicas count istiods", len(leaders))
	}
	return leaders[0], nil
}

// wantEvent waits for an Event with this reason on istiod's Deployment.
func wantEvent(t *testing.T, namespace, reason string) {
	t.Helper()
	cluster.Eventually(t, "there is an Event "+reason, func() error {
		var events eventsv1.EventList
		if err := shared.List(t.Context(), &events, client.InNamespace(namespace)); err != nil {
			return err
		}
		var found []string
		for _, event := range events.Items {
			if event.Reason == reason && event.Regarding.Kind == "Deployment" && event.Regarding.Name == "istiod" && event.Note != "" {
				return nil
			}
			found = append(found, event.Reason+": "+event.Note)
		}
		return fmt.Errorf("found %q", found)
	})
}
