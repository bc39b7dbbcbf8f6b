// SPDX-License-Identifier: Apache-2.0

package grafana

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ panel, want string }{
		"a graph":                  {`"type":"timeseries","targets":[{"expr":"up"}]`, ""},
		"a table without columns":  {`"type":"table","targets":[{"expr":"up","instant":true}]`, "has no columns"},
		"a number of a range":      {`"type":"stat","targets":[{"expr":"up"}]`, "queries the whole range"},
		"a panel without a query":  {`"type":"timeseries"`, "has 0 targets"},
		"an unknown kind of panel": {`"type":"piechart","targets":[{"expr":"up"}]`, "piechart"},
		"an unknown unit":          {`"type":"timeseries","targets":[{"expr":"up"}],"fieldConfig":{"defaults":{"unit":"furlongs"}}`, "furlongs"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse(`{"panels":[{"title":"x",` + test.panel + `}]}`)
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestExpression(t *testing.T) {
	t.Parallel()
	target := Target{Expr: "increase(a[$__rate_interval])"}
	for want, step := range map[string]time.Duration{"increase(a[1m0s])": 15 * time.Second, "increase(a[5m15s])": 5 * time.Minute} {
		if got, err := target.Expression(step, 15*time.Second); err != nil || got != want {
			t.Errorf("with steps of %s it is %q, %v, want %q", step, got, err, want)
		}
	}
	target.Expr = `up{cluster="$cluster"}`
	if got, err := target.Expression(time.Second, time.Second); err == nil {
		t.Errorf("a variable that the dashboard does not have gives %q", got)
	}
}

func TestLegend(t *testing.T) {
	t.Parallel()
	target := Target{LegendFormat: "{{namespace}}/{{ pod }}"}
	if got, err := target.Legend(labels.FromStrings("namespace", "a", "pod", "b")); err != nil || got != "a/b" {
		t.Errorf("it is %q, %v", got, err)
	}
	if got, err := target.Legend(labels.FromStrings("namespace", "a")); err == nil {
		t.Errorf("without a label it is %q", got)
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		unit        string
		value, step float64
		want        string
	}{
		{"", 3, 1, "3"},
		{"s", 0.025, 0, "25 ms"},
		{"s", 0, 0.02, "0 ms"},
		{"s", 45, 15, "45 s"},
		{"s", -30, 30, "-30 s"},
		{"s", 1800, 600, "30 min"},
		{"s", 7 * day, 2 * day, "7 d"},
	} {
		panel := &Panel{}
		panel.FieldConfig.Defaults.Unit = test.unit
		if got := format(panel, test.value, test.step); got != test.want {
			t.Errorf("%v %q, in steps of %v, is %q, want %q", test.value, test.unit, test.step, got, test.want)
		}
	}
}

// The picture is well-formed with every value that a query can return, and with every text that a label can have.
func TestSVG(t *testing.T) {
	t.Parallel()
	const hostile = `</svg><script>alert("1")</script>&` + "\x00\x1b[31m"
	from := time.Unix(1000, 0)
	dashboard, err := Parse(`{"title":"a & b","panels":[
		{"title":"graph","type":"timeseries","gridPos":{"h":8,"w":12},"targets":[{"expr":"a","legendFormat":"{{name}}"}]},
		{"title":"empty","type":"timeseries","gridPos":{"h":8,"w":12,"x":12},"targets":[{"expr":"a"}]},
		{"title":"number","type":"stat","gridPos":{"h":8,"w":12,"y":8},"targets":[{"expr":"a","legendFormat":"{{name}}","instant":true}]},
		{"title":"table","type":"table","gridPos":{"h":8,"w":12,"x":12,"y":8},"targets":[{"expr":"a","instant":true,"format":"table"}]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	series := promql.Series{Metric: labels.FromStrings("name", hostile), Floats: []promql.FPoint{
		{T: 1000_000, F: math.NaN()},
		{T: 1001_000, F: math.Inf(1)},
		{T: 1002_000, F: 1},
		{T: 1010_000, F: -1e12},
		{T: 1011_000, F: 5},
	}}
	picture := &Picture{
		Dashboard: dashboard, From: from, To: from.Add(time.Minute), Step: time.Second,
		Data: map[string]promql.Matrix{"graph": {series}, "number": {series}, "table": {series}},
	}
	drawn, err := picture.SVG()
	if err != nil {
		t.Fatal(err)
	}
	paths := 0
	decoder := xml.NewDecoder(strings.NewReader(drawn))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err, drawn)
		}
		element, ok := token.(xml.StartElement)
		if ok && element.Name.Local == "script" {
			t.Error("a label has become an element")
		}
		for _, attribute := range element.Attr {
			if attribute.Name.Local == "class" && (attribute.Value == "dots s0" || attribute.Value == "line s0") {
				paths++
			}
		}
	}
	if paths != 3 { // a point, a line after the gap, and the legend
		t.Errorf("the series has %d paths", paths)
	}
	if strings.Contains(drawn, "NaN") || strings.Contains(drawn, "Inf") || !strings.Contains(drawn, "No data") {
		t.Error("the picture has coordinates that are no numbers, or hides that a panel is empty")
	}
	if again, err := picture.SVG(); err != nil || again != drawn {
		t.Error("the same data gives another picture")
	}
}
