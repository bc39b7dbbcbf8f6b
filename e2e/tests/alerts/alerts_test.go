// SPDX-License-Identifier: Apache-2.0

// Package alerts tests the chart's alerts with Prometheus's own engine: the minute in which each one fires, and ends.
package alerts

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/check"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/prometheus"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/webhookserver"
)

var must = check.Must

// The rules are evaluated from minute settled on, when every range of a query has its samples, and each fault begins in minute
// begin.
const (
	settled = 20
	begin   = 30
)

// fault changes series of the healthy mesh from minute begin to minute end.
type fault struct {
	end int
	// change gets the healthy mesh.
	change func(mesh map[string]series)
	// An expression that counts over a range sees the fault that many minutes late, and that many after its end.
	late, after int
	// labels of the alert besides severity and alertname, as text.
	labels string
	// summary in the first minute in which the alert fires.
	summary string
	// also are the other alerts that fire.
	also []string
}

// set makes a fault that gives a series another value until its end.
func set(end int, name string, value float64) func(map[string]series) {
	return func(mesh map[string]series) { replace(mesh, name, begin, end, constant(value)) }
}

// replace replaces the values of a series that the mesh must have.
func replace(mesh map[string]series, name string, from, to int, by series) {
	if mesh[name] == nil {
		panic("the mesh has no " + name)
	}
	mesh[name] = mesh[name].during(from, to, by)
}

// remove removes all series with a label.
func remove(mesh map[string]series, label string, from, to int) {
	for name := range mesh {
		if strings.Contains(name, label) {
			replace(mesh, name, from, to, missing)
		}
	}
}

const (
	inIstioSystem = `namespace="istio-system"`
	ofIstiod0     = `namespace="istio-system", pod="istiod-0"`
	ofLeader      = `namespace="istiod-agent-system", pod="webhook-0"`
)

// faults by the alert that they are about. A new alert needs one.
var faults = map[string]fault{
	"IstiodWithoutAgent": {
		end: 60, change: set(60, istiods("missing"), 1), labels: inIstioSystem,
		summary: "istiod in namespace istio-system runs without istiod-agent.",
	},
	"IstiodCAExpires": {
		end: 90, change: set(90, agent("ca_not_after_seconds"), begin*60+day), labels: ofIstiod0,
		summary: "istiod's CA in istio-system/istiod-0 ends in 23h 45m 0s.",
	},
	"IstiodRootExpires": {
		end: 90, change: set(90, agent("root_not_after_seconds"), begin*60+60*day), labels: ofIstiod0,
		summary: "The root of istiod's CA in istio-system/istiod-0 ends in 59d 23h 45m 0s.",
	},
	"IstiodRootExpiresSoon": {
		end: 90, change: set(90, agent("root_not_after_seconds"), begin*60+20*day), labels: ofIstiod0,
		summary: "The root of istiod's CA in istio-system/istiod-0 ends in 19d 23h 45m 0s.",
		also:    []string{"IstiodRootExpires"},
	},
	"IstiodIssuerExpires": {
		end: 90, labels: ofIstiod0,
		change: func(mesh map[string]series) {
			set(90, agent("issuer_not_after_seconds"), begin*60+20*day)(mesh)
			set(90, agent("ca_not_after_seconds"), begin*60+20*day)(mesh)
		},
		summary: "A certificate above istiod's CA in istio-system/istiod-0 limits its lifetime and ends in 19d 23h 45m 0s.",
	},
	"IstiodCARenewalFails": {
		// The agent's longest pause is five minutes. The first failure makes the series, the second one is an increase.
		end: 120, late: 5, after: 4, labels: ofIstiod0 + `, reason="VaultUnreachable"`,
		change: func(mesh map[string]series) {
			mesh[agent(`renewals_total{outcome="failure",reason="VaultUnreachable"}`)] = counter(every(5, begin, 120)...)
		},
		summary: "The CA of istiod istio-system/istiod-0 cannot be renewed: VaultUnreachable.",
	},
	"IstiodCARequestWaits": {
		end: 120, change: set(120, agent("request_pending"), 1), labels: ofIstiod0,
		summary: "The request of istiod istio-system/istiod-0 for a CA certificate waits for an approval or its issuer.",
	},
	"IstiodVaultTokenExpires": {
		end: 60, change: set(60, agent("vault_token_problem"), 1), labels: ofIstiod0,
		summary: "Vault's token for istiod istio-system/istiod-0 must be replaced.",
	},
	"IstiodCANotConfirmed": {
		end: 60, change: set(60, agent("istiod_confirmed"), 0), labels: ofIstiod0,
		summary: "istiod istio-system/istiod-0 has not loaded its published CA certificate.",
	},
	"IstiodRootChanged": {
		end: 60, change: set(60, agent("root_changed"), 1), labels: ofIstiod0,
		summary: "The agent of istiod istio-system/istiod-0 refuses the root of the CA's answer.",
	},
	"IstiodRootsDiffer": {
		end: 60,
		change: func(mesh map[string]series) {
			replace(mesh, agent(`root_info{sha256="aa"}`), begin, 60, missing)
			mesh[agent(`root_info{sha256="bb"}`)] = series(missing).during(begin, 60, constant(1))
		},
		summary: "istiods have different roots.",
	},
	"IstiodRemoteClusterNotSynced": {
		end: 60, change: set(60, agent(`remote_cluster_synced{cluster="cluster-2"}`), 0), labels: `cluster="cluster-2", ` + ofIstiod0,
		summary: "istiod istio-system/istiod-0 cannot read remote cluster cluster-2.",
	},
	"IstiodAgentOutdated": {
		end: begin + 25*60, change: set(begin+25*60, istiods("outdated"), 1), labels: inIstioSystem,
		summary: "istiod in namespace istio-system runs an outdated istiod-agent.",
	},
	"IstiodAgentsNotSeen": {
		end: 60, labels: inIstioSystem,
		change:  func(mesh map[string]series) { remove(mesh, `pod="istiod-`, begin, 60) },
		summary: "Prometheus does not see 2 agents of istiod in namespace istio-system.",
	},
	"IstiodAgentWebhookDenies": {
		// The only refusal ever.
		end: begin, after: 15, labels: `kind="Deployment", reason="NoIstiodContainer"`,
		change: func(mesh map[string]series) {
			mesh[webhook(`admissions_total{kind="Deployment",outcome="denied",reason="NoIstiodContainer"}`)] = counter(begin)
		},
		summary: "The webhook refuses istiod Deployments: NoIstiodContainer.",
	},
	"IstiodAgentWebhookFails": {
		// Each time a while after the last one, so that both ways to count are seen.
		end: 50, after: 14, labels: `kind="Deployment", reason="Malformed"`,
		change: func(mesh map[string]series) {
			mesh[webhook(`admissions_total{kind="Deployment",outcome="error",reason="Malformed"}`)] = counter(begin, 40, 50)
		},
		summary: "The webhook cannot answer for istiod Deployments: Malformed.",
	},
	"IstiodAgentWebhookUnreachable": {
		end: begin, after: 15, labels: `error_type="calling_webhook_error", name="deployments.istiod-agent.io"`,
		change:  func(mesh map[string]series) { mesh[rejections("calling_webhook_error")] = counter(begin) },
		summary: "The API server gets no answer from webhook deployments.istiod-agent.io (calling_webhook_error).",
	},
	"IstiodAgentWebhookDown": {
		end:     60, // without labels: absent() has none for a comparison
		change:  func(mesh map[string]series) { remove(mesh, service[1:], begin, 60) },
		summary: "No replica of the istiod-agent webhook runs.",
	},
	"IstiodAgentWebhookCertificateExpires": {
		end: 90, change: set(90, webhook("serving_certificate_not_after_seconds"), begin*60+day/2), labels: ofLeader,
		summary: "The serving certificate of webhook-0 ends in 11h 45m 0s.",
	},
	"IstiodBundleNotCurrent": {
		end: 60, change: set(60, webhook("bundle_current"), 0), labels: ofLeader,
		summary: "The bundle endpoint of webhook-0 does not serve what istiod publishes.",
	},
	"IstiodBundleCertificateExpires": {
		end: 60, change: set(60, webhook("bundle_certificate_not_after_seconds"), 0), labels: ofLeader,
		summary: "The bundle endpoint's certificate in webhook-0 has ended, ends soon, or is missing.",
	},
}

// TestFaults requires of each alert that it fires once its fault has lasted for the rule's `for`, not a minute earlier, that it
// ends with the fault, and that a person can read it; and that the fault fires no other alert.
func TestFaults(t *testing.T) {
	t.Parallel()
	rule := chart(t)
	var alerts []string
	waits := map[string]time.Duration{}
	severities := map[string]string{}
	for _, each := range rule.Spec.Groups[0].Rules {
		alerts = append(alerts, each.Alert)
		severities[each.Alert] = each.Labels["severity"]
		if each.For != nil {
			wait, err := time.ParseDuration(string(*each.For))
			must(t, err)
			waits[each.Alert] = wait
		}
	}
	if tested := slices.Sorted(maps.Keys(faults)); !slices.Equal(tested, slices.Sorted(slices.Values(alerts))) {
		t.Errorf("the chart has the alerts\n%q, tested are\n%q", alerts, tested)
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mesh := healthy()
			fault.change(mesh)
			found := evaluate(t, mesh, fault.end+fault.after+20)

			from := begin + fault.late + int(waits[name].Minutes())
			want := span(from, fault.end+fault.after)
			if got := found[name].minutes; got != want {
				t.Errorf("it fires in the minutes %s, want %s", got, want)
			}
			firing := slices.Sorted(maps.Keys(found))
			if want := slices.Sorted(slices.Values(append([]string{name}, fault.also...))); !slices.Equal(firing, want) {
				t.Errorf("%q fire, want %q", firing, want)
			}
			if len(found[name].first) != 1 {
				t.Fatalf("%d alerts fire, want one", len(found[name].first))
			}
			alert := found[name].first[0]
			if got := alert.Annotations.Get("summary"); got != fault.summary {
				t.Errorf("its summary is %q, want %q", got, fault.summary)
			}
			for key, text := range alert.Annotations.Map() {
				if text == "" || strings.Contains(text, "<") || strings.Contains(text, "{{") {
					t.Errorf("its %s is %q", key, text)
				}
			}
			builder := labels.NewBuilder(alert.Labels)
			builder.Del("alertname", "severity")
			if got := builder.Labels().String(); got != "{"+fault.labels+"}" {
				t.Errorf("its labels are %s, want {%s}", got, fault.labels)
			}
			if got := alert.Labels.Get("severity"); got == "" || got != severities[name] {
				t.Errorf("its severity is %q", got)
			}
		})
	}
}

// TestNoFault requires that no alert fires while the mesh is healthy, nor for what passes.
func TestNoFault(t *testing.T) {
	t.Parallel()
	tests := map[string]func(mesh map[string]series){
		"healthy": func(map[string]series) {},
		"Vault does not answer for 15 minutes": func(mesh map[string]series) {
			mesh[agent(`renewals_total{outcome="failure",reason="VaultUnreachable"}`)] = counter(slices.Concat([]int{begin, begin, begin + 1, begin + 2}, every(4, begin+4, begin+15))...)
		},
		"a new istiod Pod replaces another one": func(mesh map[string]series) {
			for name, values := range maps.Clone(mesh) {
				if strings.Contains(name, `pod="istiod-0"`) {
					mesh[strings.ReplaceAll(strings.ReplaceAll(name, "istiod-0", "istiod-2"), "10.0.0.1", "10.0.0.3")] = series(missing).during(begin+5, begin+1000, values)
				}
			}
			remove(mesh, `pod="istiod-0"`, begin, begin+1000)
		},
		"the agents are not scraped for 10 minutes": func(mesh map[string]series) { remove(mesh, `pod="istiod-`, begin, begin+10) },
		"the second replica of the webhook leads": func(mesh map[string]series) {
			for name, values := range maps.Clone(mesh) {
				if strings.Contains(name, istios) && strings.Contains(name, `pod="webhook-0"`) {
					mesh[strings.ReplaceAll(strings.ReplaceAll(name, "webhook-0", "webhook-1"), "10.0.1.1", "10.0.1.2")] = series(missing).during(begin, begin+1000, values)
				}
			}
			remove(mesh, leader[1:]+istios, begin, begin+1000)
		},
		"one replica of the webhook is gone": func(mesh map[string]series) { remove(mesh, other[1:], begin, begin+1000) },
		"refusals of long ago":               refuseLongAgo,
		"a new Prometheus reads refusals of long ago": func(mesh map[string]series) {
			refuseLongAgo(mesh)
			for name := range mesh {
				replace(mesh, name, 0, settled, missing)
			}
		},
		"the API server is not read for 20 minutes": func(mesh map[string]series) {
			refuseLongAgo(mesh)
			remove(mesh, apiserver[1:], begin, begin+20)
		},
		"a tenant's Pod has the webhook's metrics, and a root": func(mesh map[string]series) {
			for _, name := range []string{
				`istiods{state="missing"}`, `istiods{state="outdated"}`, "istiod_replicas", `root_info{sha256="bb"}`,
				`webhook_admissions_total{kind="Deployment",outcome="denied",reason="Forged"}`, "webhook_serving_certificate_not_after_seconds",
			} {
				mesh[join("istiod_agent_"+name, tenant)] = series(missing).during(begin, 1000, constant(1))
			}
			mesh["up"+tenant+"}"] = constant(1)
		},
		"no CA yet": func(mesh map[string]series) {
			for _, name := range []string{"ca_not_before_seconds", "ca_not_after_seconds", "ca_renew_at_seconds", "root_not_after_seconds", "issuer_not_after_seconds", "istiod_confirmed"} {
				mesh[agent(name)] = constant(0)
			}
		},
		"no remote clusters, no second root": func(mesh map[string]series) { remove(mesh, "remote_cluster", 0, 1000) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mesh := healthy()
			change(mesh)
			for alert, found := range evaluate(t, mesh, 120) {
				t.Errorf("%s fires in the minutes %s: %s", alert, found.minutes, found.first[0].Annotations.Get("summary"))
			}
		})
	}
}

// refuseLongAgo has counters that no longer grow.
func refuseLongAgo(mesh map[string]series) {
	mesh[webhook(`admissions_total{kind="Deployment",outcome="denied",reason="NoIstiodContainer"}`)] = constant(7)
	mesh[webhook(`admissions_total{kind="Deployment",outcome="error",reason="Malformed"}`)] = constant(7)
	mesh[rejections("calling_webhook_error")] = constant(7)
}

// TestNewProcess requires an alert on a refusal by a replica that has just started, which Prometheus did not know before.
func TestNewProcess(t *testing.T) {
	t.Parallel()
	const replica = service + `instance="10.0.1.3:8080",pod="webhook-2"` + own
	mesh := healthy()
	for name, value := range map[string]float64{
		"up" + replica + "}":                         1,
		"process_start_time_seconds" + replica + "}": begin * 60,
		join(`istiod_agent_webhook_admissions_total{kind="Deployment",outcome="denied",reason="NoIstiodContainer"}`, replica): 1,
	} {
		mesh[name] = series(missing).during(begin, 1000, constant(value))
	}
	found := evaluate(t, mesh, begin+30)
	if got, want := found["IstiodAgentWebhookDenies"].minutes, span(begin, begin+15); got != want || len(found) != 1 {
		t.Errorf("the alert fires in the minutes %s, want %s; all: %v", got, want, found)
	}
}

// TestTenantCannotSilence requires the alerts on the webhook beside a Pod that serves the same metrics with hostile values.
func TestTenantCannotSilence(t *testing.T) {
	t.Parallel()
	for _, value := range []float64{math.NaN(), math.Inf(-1), -1e9} {
		for _, name := range []string{"IstiodAgentWebhookDenies", "IstiodAgentWebhookFails", "IstiodAgentWebhookUnreachable"} {
			t.Run(fmt.Sprint(name, value), func(t *testing.T) {
				t.Parallel()
				mesh := healthy()
				faults[name].change(mesh)
				for _, labels := range []string{`outcome="denied",reason="NoIstiodContainer"`, `outcome="error",reason="Malformed"`} {
					mesh[join(`istiod_agent_webhook_admissions_total{kind="Deployment",`+labels+`}`, tenant)] = series(missing).during(begin-5, 1000, constant(value))
				}
				mesh[rejectionsOf("calling_webhook_error", tenant)] = series(missing).during(begin-5, 1000, constant(value))
				mesh["up"+tenant+"}"] = constant(1)
				want := span(begin, faults[name].end+faults[name].after)
				if got := evaluate(t, mesh, faults[name].end+faults[name].after+20)[name].minutes; got != want {
					t.Errorf("it fires in the minutes %s, want %s", got, want)
				}
			})
		}
	}
}

// firing is when an alert fires, and with what.
type firing struct {
	minutes string
	first   []*prometheus.Alert
}

// evaluate evaluates the chart's alerts each minute, and returns those that fire.
func evaluate(t *testing.T, mesh map[string]series, minutes int) map[string]firing {
	t.Helper()
	loaded, err := promqltest.NewLazyLoader(load(mesh, minutes), promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true})
	must(t, err)
	defer func() { must(t, loaded.Close()) }()
	chartRules, err := prometheus.NewRules(chart(t), time.Minute, rules.EngineQueryFunc(loaded.QueryEngine(), loaded.Storage()), loaded.Storage(), t.TempDir())
	must(t, err)
	fired := map[string][]int{}
	found := map[string]firing{}
	for minute := settled; minute < minutes; minute++ {
		at := time.Unix(int64(minute)*60, 0)
		loaded.WithSamplesTill(at, func(err error) { must(t, err) })
		active, err := chartRules.Eval(loaded.Context(), at)
		must(t, err)
		for name, alerts := range active {
			alerts = slices.DeleteFunc(alerts, func(alert *prometheus.Alert) bool { return alert.State != rules.StateFiring })
			if len(alerts) == 0 {
				continue
			}
			if fired[name] == nil {
				found[name] = firing{first: alerts}
			}
			fired[name] = append(fired[name], minute)
		}
	}
	for name, all := range fired {
		text := span(all[0], all[len(all)-1]+1)
		if len(all) != all[len(all)-1]-all[0]+1 {
			text = fmt.Sprint(all) // with pauses
		}
		found[name] = firing{text, found[name].first}
	}
	return found
}

// span names the minutes [from, to).
func span(from, to int) string { return fmt.Sprintf("%d to %d", from, to-1) }

// chart returns the chart's alerts, with all parts enabled.
func chart(t *testing.T) *prometheus.Rule {
	t.Helper()
	objects, err := prometheus.FromChart(t.Context(), webhookserver.Release, helm.Values{
		"bundleEndpoint": helm.Values{"enabled": true, "secretName": "trust"},
	})
	must(t, err)
	return &objects.Rule
}
