// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/istiod-agent/istiod-agent/e2e/helm"
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

func TestAlertsAskForMetricsThatThereAre(t *testing.T) {
	r := render(t, standard, helm.Values{"prometheusRule": helm.Values{"enabled": true}, "serviceMonitor": helm.Values{"enabled": true}})
	ours := sources(t, "webhook", "controllers")
	rules := typed[prometheusRule](t, r.one(t, "PrometheusRule")).Spec.Groups[0].Rules
	if len(rules) != 7 {
		t.Errorf("there are %d alerts", len(rules))
	}
	for _, rule := range rules {
		expression, err := parser.NewParser(parser.Options{}).ParseExpr(rule.Expr)
		if err != nil {
			t.Errorf("%s: %v", rule.Alert, err)
			continue
		}
		for _, selector := range parser.ExtractSelectors(expression) {
			metric := selector[len(selector)-1].Value // the parser puts __name__ last
			own := strings.HasPrefix(metric, "istiod_agent_")
			if own && !strings.Contains(ours, `"`+metric+`"`) || !own && metric != "up" && metric != "apiserver_admission_webhook_rejection_count" {
				t.Errorf("%s asks for %s, which is nobody's", rule.Alert, metric)
			}
		}
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

// Without the ServiceMonitor nobody knows under which labels the webhook is
// scraped, and an alert on its absence would always be raised.
func TestNoAlertOnAbsenceWithoutServiceMonitor(t *testing.T) {
	r := render(t, standard, helm.Values{"prometheusRule": helm.Values{"enabled": true}})
	if strings.Contains(r.text, "absent(up") {
		t.Error("there is one")
	}
}
