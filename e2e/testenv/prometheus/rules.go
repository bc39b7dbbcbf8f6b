// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"sigs.k8s.io/yaml"
)

// Alert is an alert that a rule has made: pending until the rule's `for` is over, then firing.
type Alert = rules.Alert

// Rule is the chart's PrometheusRule.
type Rule = monitoringv1.PrometheusRule

// Rules evaluates the alerts of a PrometheusRule.
type Rules struct {
	group *rules.Group
}

// NewRules has Prometheus load the rules as the Prometheus operator writes them: spec is the content of a rule file. They are
// evaluated in intervals, with the queries answered by query, and what they record appended to to. The rule file is in dir.
func NewRules(rule *monitoringv1.PrometheusRule, interval time.Duration, query rules.QueryFunc, to storage.Appendable, dir string) (*Rules, error) {
	content, err := yaml.Marshal(rule.Spec)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, rule.Name+".yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, err
	}
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: query, Appendable: to, Context: context.Background(), Logger: promslog.NewNopLogger(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		Parser:     parser.NewParser(parser.Options{}),
	})
	groups, errs := manager.LoadGroups(interval, labels.EmptyLabels(), "", nil, false, file)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if len(groups) != 1 {
		return nil, fmt.Errorf("%s has %d groups of rules", rule.Name, len(groups))
	}
	r := &Rules{}
	for _, group := range groups {
		r.group = group
	}
	for _, each := range r.alerting() {
		each.SetRestored(true) // else `for` would only begin once Prometheus has looked for its own former series
	}
	return r, nil
}

func (r *Rules) alerting() (found []*rules.AlertingRule) {
	for _, each := range r.group.Rules() {
		if alerting, ok := each.(*rules.AlertingRule); ok {
			found = append(found, alerting)
		}
	}
	return found
}

// Eval evaluates the rules at a time, which must not be before the one of the last call, and returns the active alerts by name.
func (r *Rules) Eval(ctx context.Context, at time.Time) (map[string][]*Alert, error) {
	r.group.Eval(ctx, at)
	active := map[string][]*Alert{}
	var failed []error
	for _, each := range r.alerting() {
		if err := each.LastError(); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", each.Name(), err))
		}
		if alerts := each.ActiveAlerts(); len(alerts) > 0 {
			active[each.Name()] = alerts
		}
	}
	return active, errors.Join(failed...)
}
