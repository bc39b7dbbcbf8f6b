// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"context"
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/istiod-agent/istiod-agent/e2e/testenv/built"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/grafana"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/prometheus"
)

// step between two points of a panel.
const step = 2 * time.Second

// emptyInHealth are the panels that show nothing while the mesh is healthy, and why.
var emptyInHealth = map[string]string{
	"Remote clusters that istiod cannot read": "it lists failures",
}

// neverSeen are label values of the alerts that this run does not produce, and why.
var neverSeen = map[string]string{
	`outcome="error"`: "an answer of the webhook that reports a fault of its own",
}

// TestMonitoring takes a mesh through a healthy time with a renewal, and through a time in which Vault is sealed, the webhook
// refuses an istiod, and a remote cluster does not answer.
func TestMonitoring(t *testing.T) {
	m := start(t)
	m.labels(t)
	chartRules, err := m.prometheus.Rules(&m.objects.Rule)
	must(t, err)
	began := time.Now()

	install(t, "istio-staging")
	m.counted(t, "success", "Expiring", 1)
	healthy := time.Now()

	refused(t, "istio-system")
	must(t, joinUnreachable(t.Context()))
	must(t, m.vault.Seal(t.Context()))
	m.grows(t, "failure", "VaultSealed")
	must(t, m.vault.Unseal(t.Context()))
	m.counted(t, "success", "Expiring", 3)
	m.eventually(t, "istiod cannot read the remote cluster", `count(istiod_agent_remote_cluster_synced == 0)`, 1)
	ended := time.Now()

	m.silent(t, chartRules, began, healthy)
	m.active(t, chartRules, ended)
	m.known(t)
	m.page(t)
	m.dashboard(t, began, healthy, ended)
}

// labels expects the labels of the chart's monitors on the targets: tests/alerts has them in its series.
func (m *mesh) labels(t *testing.T) {
	t.Helper()
	want := []map[string]string{
		{"job": "istiod-agent-system/istiod-agent", "namespace": "istio-system", "pod": "istiod-0", "container": "istiod-agent", "instance": "10.244.0.7:15085"},
		{"job": "istiod-agent-system/istiod-agent", "namespace": "istio-canary", "pod": "istiod-canary-0", "container": "istiod-agent", "instance": "[fd00:10:244::8]:15085"},
		{"job": "istiod-agent-webhook", "namespace": "istiod-agent-system", "service": "istiod-agent-webhook", "pod": "istiod-agent-webhook-0", "container": "webhook", "endpoint": "metrics", "instance": "10.244.1.1:8080"},
		{"job": "istiod-agent-webhook", "namespace": "istiod-agent-system", "service": "istiod-agent-webhook", "pod": "istiod-agent-webhook-1", "container": "webhook", "endpoint": "metrics", "instance": "10.244.1.2:8080"},
		{"job": "apiserver"},
	}
	for _, target := range m.prometheus.Targets() {
		if target["job"] == "apiserver" {
			delete(target, "instance") // a free port
		}
		n := len(want)
		want = slices.DeleteFunc(want, func(each map[string]string) bool { return maps.Equal(each, target) })
		if len(want) != n-1 {
			t.Errorf("a target has the labels %v", target)
		}
	}
	for _, each := range want {
		t.Errorf("no target has the labels %v", each)
	}
}

// patience is for a scrape that was missed on a busy machine.
const patience = 10 * time.Second

// silent expects no alert in a time, not even one that has been pending for a while.
func (m *mesh) silent(t *testing.T, chartRules *prometheus.Rules, from, to time.Time) {
	t.Helper()
	seen := map[string]bool{}
	for at := from; at.Before(to); at = at.Add(step) {
		active, err := chartRules.Eval(t.Context(), at)
		must(t, err)
		for name, alerts := range active {
			if at.Sub(alerts[0].ActiveAt) < patience && alerts[0].State == rules.StatePending {
				continue
			}
			if !seen[name] {
				t.Errorf("%s after the start, %s is active: %v", at.Sub(from), name, alerts[0].Annotations)
			}
			seen[name] = true
		}
	}
}

// active expects those alerts whose faults the mesh has. What has a `for` cannot fire within the run.
func (m *mesh) active(t *testing.T, chartRules *prometheus.Rules, at time.Time) {
	t.Helper()
	active, err := chartRules.Eval(t.Context(), at)
	must(t, err)
	states := map[string]string{}
	for name, alerts := range active {
		states[name] = alerts[0].State.String()
	}
	want := map[string]string{
		"IstiodCARenewalFails":         rules.StatePending.String(),
		"IstiodRemoteClusterNotSynced": rules.StatePending.String(),
		"IstiodAgentWebhookDenies":     rules.StateFiring.String(),
	}
	if !maps.Equal(states, want) {
		t.Errorf("at the end the alerts are %v, want %v", states, want)
	}
}

// known expects that the real programs have each metric, label and label's value that an alert or a panel names.
func (m *mesh) known(t *testing.T) {
	t.Helper()
	expressions := map[string]string{}
	for _, rule := range m.objects.Rule.Spec.Groups[0].Rules {
		expressions[rule.Alert] = rule.Expr.String()
	}
	for _, panel := range m.parse(t).Panels {
		expression, err := panel.Targets[0].Expression(step, prometheus.Interval)
		must(t, err)
		expressions[panel.Title] = expression
	}
	for name, expression := range expressions {
		parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expression)
		must(t, err)
		parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
			switch node := node.(type) {
			case *parser.VectorSelector:
				for _, matcher := range node.LabelMatchers {
					if value := fmt.Sprintf("%s=%q", matcher.Name, matcher.Value); matcher.Type == labels.MatchEqual && neverSeen[value] == "" && !m.exists(t, node.Name, matcher) {
						t.Errorf("%s: no series %s has %s", name, node.Name, value)
					}
					if !m.exists(t, node.Name, labels.MustNewMatcher(labels.MatchNotEqual, matcher.Name, "")) {
						t.Errorf("%s: no series %s has label %s", name, node.Name, matcher.Name)
					}
				}
			case *parser.AggregateExpr:
				for _, metric := range labelled(node) {
					for _, label := range node.Grouping {
						if !m.exists(t, metric, labels.MustNewMatcher(labels.MatchNotEqual, label, "")) {
							t.Errorf("%s: no series %s has label %s", name, metric, label)
						}
					}
				}
			}
			return nil
		})
	}
}

// labelled returns the metrics whose labels an expression has: the right side of `and` and `unless` gives none.
func labelled(node parser.Node) (metrics []string) {
	switch node := node.(type) {
	case *parser.VectorSelector:
		return []string{node.Name}
	case *parser.BinaryExpr:
		if node.Op == parser.LAND || node.Op == parser.LUNLESS {
			return labelled(node.LHS)
		}
	}
	for _, child := range parser.Children(node) {
		metrics = append(metrics, labelled(child)...)
	}
	return metrics
}

// exists reports whether there was a series of a metric with such a label.
func (m *mesh) exists(t *testing.T, metric string, matcher *labels.Matcher) bool {
	t.Helper()
	selector := fmt.Sprintf(`count(last_over_time({__name__=%q,%s}[10m]))`, metric, matcher)
	if matcher.Name == model.MetricNameLabel {
		selector = fmt.Sprintf(`count(last_over_time({__name__=%q}[10m]))`, metric)
	}
	found, err := m.prometheus.Query(t.Context(), selector, time.Now())
	must(t, err)
	return len(found) == 1
}

// page expects that docs/monitoring.md describes each metric of the programs, and that Prometheus takes its queries.
func (m *mesh) page(t *testing.T) {
	t.Helper()
	root, err := built.Root()
	must(t, err)
	content, err := os.ReadFile(filepath.Join(root, "docs", "monitoring.md"))
	must(t, err)
	found, err := m.prometheus.Query(t.Context(), `count by (__name__) (last_over_time({__name__=~"istiod_agent_.*"}[10m]))`, time.Now())
	must(t, err)
	if len(found) < 20 {
		t.Fatalf("the programs have the metrics %v", found)
	}
	histogram := regexp.MustCompile("_(bucket|sum|count)$")
	for _, sample := range found {
		name := histogram.ReplaceAllString(sample.Metric.Get(model.MetricNameLabel), "")
		if !strings.Contains(string(content), "`"+name+"`") && !strings.Contains(string(content), "`"+name+"{") {
			t.Errorf("docs/monitoring.md does not describe %s", name)
		}
	}
	_, queries, _ := strings.Cut(string(content), "\n### Queries\n")
	blocks := regexp.MustCompile("(?s)```\n(.*?)\n```").FindAllStringSubmatch(queries, -1)
	if len(blocks) == 0 {
		t.Fatal("docs/monitoring.md has no queries")
	}
	for _, block := range blocks {
		if _, err := m.prometheus.Query(t.Context(), block[1], time.Now()); err != nil {
			t.Errorf("docs/monitoring.md has the query %s: %v", block[1], err)
		}
	}
}

func (m *mesh) parse(t *testing.T) *grafana.Dashboard {
	t.Helper()
	dashboard, err := grafana.Parse(m.objects.Dashboard.Data["istiod-agent.json"])
	must(t, err)
	return dashboard
}

// query returns what a panel shows of a time.
func (m *mesh) query(ctx context.Context, panel *grafana.Panel, from, to time.Time) (promql.Matrix, error) {
	target := panel.Targets[0]
	expression, err := target.Expression(step, prometheus.Interval)
	if err != nil {
		return nil, err
	}
	if target.Instant {
		from = to
	}
	return m.prometheus.QueryRange(ctx, expression, from, to, step)
}

// dashboard expects that each panel shows something, and that the picture in the docs is of this dashboard.
func (m *mesh) dashboard(t *testing.T, began, healthy, ended time.Time) {
	t.Helper()
	ctx := t.Context()
	picture := &grafana.Picture{
		Dashboard: m.parse(t), Data: map[string]promql.Matrix{}, From: began, To: ended, Step: step,
		Caption: fmt.Sprintf("A test of a few minutes: two istiods whose CAs live for a minute. Vault is sealed from minute %s on, until renewals are overdue.", clock(healthy.Sub(began))),
		Description: "The panels of the dashboard with the data of a test. The time until each CA expires is a sawtooth: each renewal raises it. " +
			"While Vault is sealed, the time until each renewal falls below zero, and the renewals show failures; then both istiods renew. " +
			"The webhook's answers show a refused istiod, and one remote cluster cannot be read.",
	}
	for i := range picture.Panels {
		panel := &picture.Panels[i]
		inHealth, err := m.query(ctx, panel, began, healthy)
		must(t, err)
		if why := emptyInHealth[panel.Title]; (len(inHealth) == 0) != (why != "") {
			t.Errorf("panel %q shows %d series of a healthy mesh (%s)", panel.Title, len(inHealth), why)
		}
		data, err := m.query(ctx, panel, began, ended)
		must(t, err)
		if len(data) == 0 {
			t.Errorf("panel %q shows nothing", panel.Title)
		}
		picture.Data[panel.Title] = data
	}
	drawn, err := picture.SVG()
	must(t, err)
	root, err := built.Root()
	must(t, err)
	file := filepath.Join(root, "docs", "pictures", "dashboard.svg")
	if *update {
		must(t, os.WriteFile(file, []byte(drawn), 0o644))
	}
	content, err := os.ReadFile(file)
	must(t, err)
	if len(content) > 150_000 {
		t.Errorf("%s has %d bytes", file, len(content))
	}
	for _, panel := range picture.Panels {
		var title strings.Builder
		must(t, xml.EscapeText(&title, []byte(panel.Title)))
		if !strings.Contains(string(content), `class="title" text-anchor="start">`+title.String()+"<") {
			t.Errorf("%s does not show panel %q: draw it again with -update", file, panel.Title)
		}
	}
}

// clock writes a duration as the time axis does.
func clock(d time.Duration) string {
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
