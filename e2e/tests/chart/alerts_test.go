// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/istiod-agent/istiod-agent/agent/metrics"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/helm"
)

type prometheusRule struct {
	APIVersion, Kind string
	Metadata         map[string]any
	Spec             struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
}

func TestAlerts(t *testing.T) {
	r := render(t, standard, bundled(helm.Values{"prometheusRule": helm.Values{"enabled": true}, "serviceMonitor": helm.Values{"enabled": true}, "podMonitor": helm.Values{"enabled": true}}))
	rules := typed[prometheusRule](t, r.one(t, "PrometheusRule")).Spec.Groups[0].Rules
	if len(rules) != 21 {
		t.Errorf("there are %d alerts", len(rules))
	}
	for _, rule := range rules {
		wantMetrics(t, rule.Alert, rule.Expr)
		// A label that a message names must survive the expression.
		for _, text := range rule.Annotations {
			for _, label := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(text, -1) {
				if !regexp.MustCompile(`by \([^)]*\b` + label[1] + `\b[^)]*\)`).MatchString(rule.Expr) {
					t.Errorf("%s: its message names label %s, its expression drops it", rule.Alert, label[1])
				}
			}
		}
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
			t.Errorf("%s lacks a severity, a summary or a description", rule.Alert)
		}
	}
}

// others are the metrics of alerts that are not of this project: of Prometheus, of each program, and of the API server.
var others = []string{"up", "process_start_time_seconds", "apiserver_admission_webhook_rejection_count"}

// wantMetrics expects a valid expression whose metrics all exist.
func wantMetrics(t *testing.T, of, expression string) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(expression, "$__rate_interval", "5m")) // Grafana's own
	if err != nil {
		t.Errorf("%s: %v", of, err)
		return
	}
	var agents strings.Builder
	metrics.New().Write(&agents)
	ours := sources(t, "webhook", "controllers", "agent", "bundle")
	for _, selector := range parser.ExtractSelectors(parsed) {
		metric := selector[len(selector)-1].Value // the parser puts __name__ last
		own := strings.HasPrefix(metric, "istiod_agent_")
		name := strings.TrimSuffix(metric, "_bucket") // of a histogram
		known := strings.Contains(ours, `"`+name+`"`) || strings.Contains(agents.String(), "\n"+name+" ")
		if own && !known || !own && !slices.Contains(others, metric) {
			t.Errorf("%s asks for %s, which is nobody's", of, metric)
		}
	}
}

// The dashboard's metrics exist, its legends use labels that the queries keep, and no panel covers another.
func TestDashboard(t *testing.T) {
	r := render(t, standard, helm.Values{"dashboard": helm.Values{"enabled": true}})
	configuration := r.objects["ConfigMap istiod-agent-dashboard"]
	if configuration == nil || configuration.GetLabels()["grafana_dashboard"] != "1" {
		t.Fatalf("there is no ConfigMap that Grafana finds: %v", configuration)
	}
	content, _, _ := unstructured.NestedString(configuration.Object, "data", "istiod-agent.json")
	var dashboard struct {
		Title  string
		Panels []struct {
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal([]byte(content), &dashboard); err != nil || dashboard.Title == "" || len(dashboard.Panels) == 0 {
		t.Fatalf("%v, %+v", err, dashboard)
	}
	taken := map[[2]int]string{}
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("%s shows nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			wantMetrics(t, panel.Title, target.Expr)
			for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if !regexp.MustCompile(`by \([^)]*\b` + label[1] + `\b[^)]*\)`).MatchString(target.Expr) {
					t.Errorf("%s: its legend names label %s, its expression drops it", panel.Title, label[1])
				}
			}
		}
		for x := range panel.GridPos.W {
			for y := range panel.GridPos.H {
				at := [2]int{panel.GridPos.X + x, panel.GridPos.Y + y}
				if taken[at] != "" || at[0] >= 24 {
					t.Errorf("%s hides %s, or is too wide", panel.Title, taken[at])
				}
				taken[at] = panel.Title
			}
		}
	}
}

// The alert on missing agents needs both monitors: Prometheus reads the agents, and the webhook counts them.
func TestAgentAbsenceAlert(t *testing.T) {
	enabled := func(is bool) helm.Values { return helm.Values{"enabled": is} }
	for _, monitored := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
		r := render(t, standard, helm.Values{"prometheusRule": enabled(true), "podMonitor": enabled(monitored[0]), "serviceMonitor": enabled(monitored[1])})
		if found := strings.Contains(r.text, "alert: IstiodAgentsNotSeen"); found != (monitored[0] && monitored[1]) {
			t.Errorf("monitors of Pods and the Service: %v: the alert is there: %t", monitored, found)
		}
	}
}

// Without the ServiceMonitor the labels of the webhook's metrics are unknown, and an alert on their absence would always
// fire.
func TestWebhookAbsenceAlert(t *testing.T) {
	r := render(t, standard, helm.Values{"prometheusRule": helm.Values{"enabled": true}})
	if strings.Contains(r.text, "absent(up") {
		t.Error("there is one")
	}
}
