// SPDX-License-Identifier: Apache-2.0

// Package grafana reads a dashboard as Grafana does, and draws its panels as a picture. It has the kinds of panels and units that
// the chart's dashboard uses; others are errors.
package grafana

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Dashboard is Grafana's JSON model of a dashboard, as far as it is drawn.
type Dashboard struct {
	Title  string  `json:"title"`
	Panels []Panel `json:"panels"`
}

// Panel is a panel of a dashboard.
type Panel struct {
	Title string `json:"title"`
	// Type is one of the types below.
	Type string `json:"type"`
	// GridPos is the panel's place: the dashboard is 24 columns wide.
	GridPos struct {
		X int `json:"x"`
		Y int `json:"y"`
		W int `json:"w"`
		H int `json:"h"`
	} `json:"gridPos"`
	Targets     []Target `json:"targets"`
	FieldConfig struct {
		Defaults struct {
			// Unit is "s" for seconds, or "" for a number.
			Unit string `json:"unit"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
}

// The types of panels.
const (
	TimeSeries = "timeseries"
	Stat       = "stat"
	Table      = "table"
)

// Target is a query of a panel.
type Target struct {
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"`
	// Instant queries the end of the time range alone.
	Instant bool   `json:"instant"`
	Format  string `json:"format"`
}

// Parse reads a dashboard. A panel that cannot be drawn is an error.
func Parse(content string) (*Dashboard, error) {
	d := &Dashboard{}
	if err := json.Unmarshal([]byte(content), d); err != nil {
		return nil, err
	}
	for _, panel := range d.Panels {
		if len(panel.Targets) != 1 {
			return nil, fmt.Errorf("panel %q has %d targets", panel.Title, len(panel.Targets))
		}
		target := panel.Targets[0]
		switch panel.Type {
		case TimeSeries:
		case Stat:
			if !target.Instant {
				return nil, fmt.Errorf("panel %q queries the whole range, and shows its end", panel.Title)
			}
		case Table:
			if !target.Instant || target.Format != "table" {
				return nil, fmt.Errorf("panel %q has no columns: its target is not instant, or not in format table", panel.Title)
			}
		default:
			return nil, fmt.Errorf("panel %q has type %q", panel.Title, panel.Type)
		}
		if unit := panel.FieldConfig.Defaults.Unit; unit != "" && unit != "s" {
			return nil, fmt.Errorf("panel %q has unit %q", panel.Title, unit)
		}
	}
	return d, nil
}

// Expression is the target's query with Grafana's variables replaced, for a step between two points and an interval between two
// scrapes. A variable that Grafana's Prometheus data source does not have is an error.
// https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/#use-__rate_interval
func (t *Target) Expression(step, scrape time.Duration) (string, error) {
	expression := strings.ReplaceAll(t.Expr, "$__rate_interval", max(step+scrape, 4*scrape).String())
	if variable := regexp.MustCompile(`\$\{?\w+`).FindString(expression); variable != "" {
		return "", fmt.Errorf("variable %s in %s", variable, t.Expr)
	}
	return expression, nil
}

// Legend is the name of a series. A label of the format that the series lacks is an error.
func (t *Target) Legend(metric labels.Labels) (string, error) {
	if t.LegendFormat == "" {
		return metric.String(), nil
	}
	var missing error
	return regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`).ReplaceAllStringFunc(t.LegendFormat, func(found string) string {
		name := strings.Trim(found, "{} ")
		if !metric.Has(name) {
			missing = fmt.Errorf("legend %q: %s has no label %s", t.LegendFormat, metric, name)
		}
		return metric.Get(name)
	}), missing
}
