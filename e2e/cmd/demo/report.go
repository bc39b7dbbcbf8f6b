// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
)

// webhooksReport collects what the webhook reports about istiod: log lines, audit annotations, metrics and Events.
func webhooksReport(ctx context.Context, c *cluster.Cluster) (report []string, err error) {
	for _, look := range []func(context.Context, *cluster.Cluster) ([]string, error){logLines, auditAnnotations, metrics, events} {
		// The audit log and Events are written a moment later.
		var found []string
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 15*time.Second, true, func(ctx context.Context) (bool, error) {
			var err error
			found, err = look(ctx, c)
			return len(found) > 0, err
		})
		if err != nil {
			return nil, fmt.Errorf("waiting for the webhook's report: %w", err)
		}
		report = append(report, found...)
	}
	return report, nil
}

func logLines(_ context.Context, c *cluster.Cluster) (found []string, err error) {
	for line := range strings.Lines(c.Webhook.Replicas[0].Log()) {
		var entry struct{ Msg, Reason, ClaimedName string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.ClaimedName == "istiod" {
			found = append(found, fmt.Sprintf("  log     %s: %s", entry.Reason, entry.Msg))
		}
	}
	return found, nil
}

func auditAnnotations(_ context.Context, c *cluster.Cluster) (found []string, err error) {
	events, err := c.Plane.AuditEvents(namespace)
	if err != nil {
		return nil, err
	}
	for _, event := range events {
		for key, value := range event.Annotations {
			if strings.HasPrefix(key, "deployments.istiod-agent.io/") {
				found = append(found, fmt.Sprintf("  audit   %s %s %s: %s=%s", event.Verb, event.ObjectRef.Resource, event.ObjectRef.Name, key, value))
			}
		}
	}
	return found, nil
}

func metrics(ctx context.Context, c *cluster.Cluster) (found []string, err error) {
	all, err := c.Webhook.Replicas[0].Metrics(ctx)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(all) {
		if strings.HasPrefix(line, "istiod_agent_webhook_admissions_total") || strings.HasPrefix(line, "istiod_agent_istiods") {
			found = append(found, "  metric  "+strings.TrimSpace(line))
		}
	}
	return found, nil
}

func events(ctx context.Context, c *cluster.Cluster) (found []string, err error) {
	var list eventsv1.EventList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	for _, event := range list.Items {
		if event.Regarding.Name == "istiod" {
			found = append(found, fmt.Sprintf("  event   %s: %s", event.Reason, event.Note))
		}
	}
	return found, nil
}
