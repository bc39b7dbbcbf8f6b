// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// What Prometheus reads of a small, healthy mesh: two istiods, and the webhook's two replicas, of which the first one leads. The
// labels of the targets are those that the chart's monitors give; tests/monitoring compares with those of the real programs.
const (
	istiod0 = `{container="istiod-agent",instance="10.0.0.1:15085",job="istiod-agent-system/istiod-agent",namespace="istio-system",pod="istiod-0"`
	istiod1 = `{container="istiod-agent",instance="10.0.0.2:15085",job="istiod-agent-system/istiod-agent",namespace="istio-system",pod="istiod-1"`
	service = `{container="webhook",endpoint="metrics",job="istiod-agent-webhook",service="istiod-agent-webhook",`
	leader  = service + `instance="10.0.1.1:8080",pod="webhook-0"`
	other   = service + `instance="10.0.1.2:8080",pod="webhook-1"`
	// own is the namespace of the webhook. A series about an istiod has istiod's namespace instead.
	own       = `,namespace="istiod-agent-system"`
	istios    = `,namespace="istio-system"`
	apiserver = `{endpoint="https",instance="192.168.0.1:6443",job="apiserver",namespace="default",service="kubernetes"`
	// tenant is a Pod that anyone may create, which serves what it likes.
	tenant = `{container="istiod-agent",instance="10.0.2.1:15085",job="istiod-agent-system/istiod-agent",namespace="tenant",pod="istiod-evil"`
)

// The seconds of a day.
const day = 86400

// series is the value of a series in each minute; false for none.
type series func(minute int) (value float64, ok bool)

func constant(value float64) series {
	return func(int) (float64, bool) { return value, true }
}

func missing(int) (float64, bool) { return 0, false }

// during has the other value in the minutes [from, to).
func (s series) during(from, to int, other series) series {
	return func(minute int) (float64, bool) {
		if minute >= from && minute < to {
			return other(minute)
		}
		return s(minute)
	}
}

// counter is increased in these minutes. There is no series before the first one: no program writes a counter of 0.
func counter(minutes ...int) series {
	return func(minute int) (float64, bool) {
		count := 0
		for _, at := range minutes {
			if at <= minute {
				count++
			}
		}
		return float64(count), count > 0
	}
}

// every returns the minutes from the first one until before the last one, with a pause between them.
func every(pause, from, to int) (minutes []int) {
	for minute := from; minute < to; minute += pause {
		minutes = append(minutes, minute)
	}
	return minutes
}

// healthy returns all series of the mesh. Its time begins at 0.
func healthy() map[string]series {
	all := map[string]series{}
	for _, pod := range []string{istiod0, istiod1} {
		for name, value := range map[string]float64{
			"ca_not_before_seconds": 0, "ca_not_after_seconds": 365 * day, "ca_renew_at_seconds": 320 * day,
			"root_not_after_seconds": 3650 * day, "issuer_not_after_seconds": 1000 * day,
			"istiod_confirmed": 1, "root_changed": 0, "request_pending": 0, "specification_accepted": 1,
			"vault_token_not_after_seconds": 0, "vault_token_problem": 0,
			`remote_cluster_synced{cluster="cluster-2"}`:            1,
			`root_info{sha256="aa"}`:                                1,
			`renewals_total{outcome="success",reason="RenewalDue"}`: 3,
		} {
			all[join("istiod_agent_"+name, pod)] = constant(value)
		}
		all["up"+pod+"}"] = constant(1)
	}
	for _, pod := range []string{leader, other} {
		all[join("istiod_agent_webhook_serving_certificate_not_after_seconds", pod+own)] = constant(80 * day)
		all[join("istiod_agent_webhook_bundle_current", pod+own)] = constant(1)
		all[join("istiod_agent_webhook_bundle_certificate_not_after_seconds", pod+own)] = constant(80 * day)
		all[join(`istiod_agent_webhook_admissions_total{kind="Deployment",outcome="patched",reason="Injected"}`, pod+own)] = constant(4)
		all["up"+pod+own+"}"] = constant(1)
	}
	for _, state := range []string{"injected", "outdated", "missing", "skipped"} {
		value := 0.0
		if state == "injected" {
			value = 1
		}
		all[istiods(state)] = constant(value)
	}
	all[join("istiod_agent_istiod_replicas", leader+istios)] = constant(2)
	all[rejections("no_error")] = constant(3)
	all["up"+apiserver+"}"] = constant(1)
	return all
}

// join adds the labels of a target to those of a series.
func join(name, target string) string {
	if name, own, ok := strings.Cut(name, "{"); ok {
		return name + target + "," + own
	}
	return name + target + "}"
}

// agent is a series of istiod-0's agent.
func agent(name string) string { return join("istiod_agent_"+name, istiod0) }

// webhook is a series of the webhook's leader.
func webhook(name string) string { return join("istiod_agent_webhook_"+name, leader+own) }

func istiods(state string) string {
	return join(`istiod_agent_istiods{state="`+state+`"}`, leader+istios)
}

func rejections(errorType string) string { return rejectionsOf(errorType, apiserver) }

func rejectionsOf(errorType, target string) string {
	return join(`apiserver_admission_webhook_rejection_count{error_type="`+errorType+`",name="deployments.istiod-agent.io",operation="CREATE",rejection_code="0",type="admit"}`, target)
}

// load writes series as Prometheus's tests load them: a value each minute.
func load(all map[string]series, minutes int) string {
	var text strings.Builder
	text.WriteString("load 1m\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text.WriteString("  " + name)
		was := true
		for minute := range minutes {
			value, ok := all[name](minute)
			switch {
			case ok:
				fmt.Fprintf(&text, " %v", value)
			case was && minute > 0: // Prometheus marks a series that a target does not have any more
				text.WriteString(" stale")
			default:
				text.WriteString(" _")
			}
			was = ok
		}
		text.WriteString("\n")
	}
	return text.String()
}
