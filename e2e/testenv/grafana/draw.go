// SPDX-License-Identifier: Apache-2.0

package grafana

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql"
)

// Picture is what a dashboard shows.
type Picture struct {
	*Dashboard
	// Description is for readers who cannot see the picture, Caption is below its title.
	Description, Caption string
	From, To             time.Time
	// Step between two points. A longer pause is a gap.
	Step time.Duration
	// Data of the panels, by their titles. Instant queries have one point for each series.
	Data map[string]promql.Matrix
}

// Sizes in pixels.
const (
	width   = 960.0
	column  = width / 24
	row     = 26.0
	head    = 54.0 // title and caption
	gap     = 4.0  // around a panel
	padding = 10.0
	letter  = 6.3 // the mean width of a letter of the legend
)

// colors of the series of a panel, which are used again after the last one.
var colors = []struct{ light, dark string }{
	{"#0969da", "#4493f8"},
	{"#bc4c00", "#f0883e"},
	{"#1a7f37", "#3fb950"},
	{"#8250df", "#ab7df8"},
	{"#cf222e", "#ff7b72"},
	{"#9a6700", "#d29922"},
	{"#bf3989", "#f778ba"},
	{"#1b7c83", "#39c5cf"},
}

// SVG draws the dashboard, for a light and a dark background.
func (p *Picture) SVG() (string, error) {
	d := &drawing{}
	rows := 0
	for _, panel := range p.Panels {
		rows = max(rows, panel.GridPos.Y+panel.GridPos.H)
	}
	height := head + float64(rows)*row
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %v %v" width="%v" height="%v" role="img" aria-labelledby="title description">`, width, height, width, height)
	d.printf(`<title id="title">The dashboard %s</title>`, escape(p.Title))
	d.printf(`<desc id="description">%s</desc>`, escape(p.Description))
	d.style()
	d.printf(`<rect class="back" width="%v" height="%v"/>`, width, height)
	d.text(padding, 22, "name", "start", p.Title)
	d.text(padding, 42, "small", "start", p.Caption)
	for i := range p.Panels {
		if err := p.draw(d, &p.Panels[i]); err != nil {
			return "", fmt.Errorf("panel %q: %w", p.Panels[i].Title, err)
		}
	}
	d.printf("</svg>")
	return d.String(), nil
}

func (p *Picture) draw(d *drawing, panel *Panel) error {
	place := panel.GridPos
	b := box{float64(place.X)*column + gap, head + float64(place.Y)*row + gap, float64(place.W)*column - 2*gap, float64(place.H)*row - 2*gap}
	d.printf(`<rect class="panel" x="%s" y="%s" width="%s" height="%s" rx="4"/>`, number(b.x), number(b.y), number(b.w), number(b.h))
	d.text(b.x+padding, b.y+18, "title", "start", panel.Title)
	inner := box{b.x + padding, b.y + 28, b.w - 2*padding, b.h - 28 - padding/2}
	data := p.Data[panel.Title]
	if len(data) == 0 {
		d.text(b.x+b.w/2, b.y+b.h/2+8, "small", "middle", "No data")
		return nil
	}
	names := make([]string, len(data))
	for i, series := range data {
		var err error
		if names[i], err = panel.Targets[0].Legend(series.Metric); err != nil {
			return err
		}
	}
	switch panel.Type {
	case Stat:
		drawStat(d, inner, panel, data, names)
	case Table:
		drawTable(d, inner, data)
	default:
		p.drawGraph(d, inner, panel, data, names)
	}
	return nil
}

// drawStat draws the last value of each series, side by side.
func drawStat(d *drawing, b box, panel *Panel, data promql.Matrix, names []string) {
	each := b.w / float64(len(data))
	for i, series := range data {
		middle := b.x + each*(float64(i)+.5)
		d.text(middle, b.y+b.h/2+4, "value", "middle", format(panel, series.Floats[len(series.Floats)-1].F, 0))
		d.text(middle, b.y+b.h/2+26, "small", "middle", names[i])
	}
}

// drawTable draws the labels of each series as a row.
func drawTable(d *drawing, b box, data promql.Matrix) {
	var names []string
	for name := range data[0].Metric.Map() {
		names = append(names, name)
	}
	slices.Sort(names)
	each := b.w / float64(len(names))
	for i, name := range names {
		x := b.x + each*float64(i)
		d.text(x, b.y+14, "small", "start", name)
		for line, series := range data {
			d.text(x, b.y+36+20*float64(line), "cell", "start", shorten(series.Metric.Get(name), int(each/letter)))
		}
	}
	d.printf(`<path class="grid" d="M%s %sH%s"/>`, number(b.x), number(b.y+20), number(b.x+b.w))
}

// drawGraph draws a line for each series, with axes and a legend.
func (p *Picture) drawGraph(d *drawing, b box, panel *Panel, data promql.Matrix, names []string) {
	lines := legendLines(names, b.w)
	const left, below, line = 52.0, 18.0, 15.0
	plot := box{b.x + left, b.y + 4, b.w - left - 4, b.h - 4 - below - line*float64(len(lines))}

	least, most := 0.0, 0.0 // 0 is always in the picture
	for _, series := range data {
		for _, point := range series.Floats {
			if !math.IsNaN(point.F) && !math.IsInf(point.F, 0) {
				least, most = min(least, point.F), max(most, point.F)
			}
		}
	}
	if least == most {
		most = 1
	}
	ticks, step := axis(panel, least, most)
	least, most = ticks[0], ticks[len(ticks)-1]
	x := func(at time.Time) float64 {
		return plot.x + plot.w*float64(at.Sub(p.From))/float64(p.To.Sub(p.From))
	}
	y := func(value float64) float64 { return plot.y + plot.h*(most-value)/(most-least) }

	for _, tick := range ticks {
		d.printf(`<path class="grid" d="M%s %sH%s"/>`, number(plot.x), number(y(tick)), number(plot.x+plot.w))
		d.text(plot.x-6, y(tick)+4, "small", "end", format(panel, tick, step))
	}
	const every = 30 * time.Second
	for at := time.Duration(0); at <= p.To.Sub(p.From); at += every {
		d.text(x(p.From.Add(at)), plot.y+plot.h+14, "small", "middle", fmt.Sprintf("%d:%02d", int(at.Minutes()), int(at.Seconds())%60))
	}
	for i, series := range data {
		d.path(i, p.points(series, x, y))
	}
	at := 0
	for n, names := range lines {
		left := plot.x - left
		for _, name := range names {
			baseline := plot.y + plot.h + below + line*float64(n) + 10
			d.printf(`<path class="line s%d" d="M%s %sh12"/>`, at%len(colors), number(left), number(baseline-4))
			d.text(left+16, baseline, "small", "start", name)
			left += 16 + letter*float64(len(name)) + 14
			at++
		}
	}
}

// points are the parts of a line without a gap.
func (p *Picture) points(series promql.Series, x func(time.Time) float64, y func(float64) float64) (parts [][][2]float64) {
	var last time.Time
	for _, point := range series.Floats {
		if math.IsNaN(point.F) || math.IsInf(point.F, 0) {
			continue
		}
		at := time.UnixMilli(point.T)
		if last.IsZero() || at.Sub(last) > p.Step {
			parts = append(parts, nil)
		}
		last = at
		n := len(parts) - 1
		part := append(parts[n], [2]float64{x(at), y(point.F)})
		if k := len(part); k > 2 && part[k-1][1] == part[k-2][1] && part[k-2][1] == part[k-3][1] {
			part = append(part[:k-2], part[k-1]) // on a level line
		}
		parts[n] = part
	}
	return parts
}

// legendLines divides names into lines of a width.
func legendLines(names []string, width float64) (lines [][]string) {
	used := math.Inf(1)
	for _, name := range names {
		needed := 16 + letter*float64(len(name)) + 14
		if used+needed > width {
			lines, used = append(lines, nil), 0
		}
		lines[len(lines)-1] = append(lines[len(lines)-1], name)
		used += needed
	}
	return lines
}

// seconds are round times.
var seconds = []float64{
	.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200,
	day, 2 * day, 5 * day, 10 * day, 20 * day, 50 * day, 100 * day, 200 * day, 500 * day, 1000 * day, 2000 * day, 5000 * day,
}

const day = 86400.0

// axis returns round values that include least and most, and their distance.
func axis(panel *Panel, least, most float64) (ticks []float64, step float64) {
	steps := seconds
	if panel.FieldConfig.Defaults.Unit == "" {
		steps = nil
		for power := 1.0; power < 1e10; power *= 10 { // counts
			steps = append(steps, power, 2*power, 5*power)
		}
	}
	for _, step = range steps {
		if (most-least)/step <= 5 {
			break
		}
	}
	for tick := math.Floor(least/step) * step; ; tick += step {
		ticks = append(ticks, tick)
		if tick >= most {
			return ticks, step
		}
	}
}

// format writes a value in the panel's unit. The step between two values decides the unit of a time, 0 the value itself.
func format(panel *Panel, value, step float64) string {
	if panel.FieldConfig.Defaults.Unit != "s" {
		return strconv.FormatFloat(value, 'g', 3, 64)
	}
	if step == 0 {
		step = math.Abs(value)
	}
	for _, unit := range []struct {
		seconds float64
		name    string
	}{{day, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}} {
		if step >= unit.seconds && (unit.seconds == 1 || math.Mod(step, unit.seconds) == 0) {
			return strconv.FormatFloat(value/unit.seconds, 'f', -1, 64) + " " + unit.name
		}
	}
	return strconv.FormatFloat(math.Round(value*1e4)/10, 'g', 4, 64) + " ms"
}

type box struct{ x, y, w, h float64 }

// drawing is an SVG.
type drawing struct{ strings.Builder }

func (d *drawing) printf(format string, arguments ...any) {
	fmt.Fprintf(&d.Builder, format+"\n", arguments...)
}

func (d *drawing) text(x, y float64, class, anchor, text string) {
	d.printf(`<text x="%s" y="%s" class="%s" text-anchor="%s">%s</text>`, number(x), number(y), class, anchor, escape(text))
}

// path draws the parts of a line, and a dot for a part of one point.
func (d *drawing) path(series int, parts [][][2]float64) {
	var line, dots strings.Builder
	for _, part := range parts {
		if len(part) == 1 {
			dots.WriteString("M" + number(part[0][0]) + " " + number(part[0][1]) + "h0") // with round ends
			continue
		}
		for i, point := range part {
			letter := "L"
			if i == 0 {
				letter = "M"
			}
			line.WriteString(letter + number(point[0]) + " " + number(point[1]))
		}
	}
	for _, path := range [][2]string{{"line", line.String()}, {"dots", dots.String()}} {
		if path[1] != "" {
			d.printf(`<path class="%s s%d" d="%s"/>`, path[0], series%len(colors), path[1])
		}
	}
}

func (d *drawing) style() {
	d.printf(`<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.name { font-size: 16px; font-weight: 600; }
.title { font-weight: 600; }
.small { font-size: 11px; fill: #59636e; }
.cell { font: 11px ui-monospace, monospace; }
.value { font-size: 26px; font-weight: 600; }
.back { fill: #f6f8fa; }
.panel { fill: #ffffff; stroke: #d1d9e0; }
.grid { fill: none; stroke: #d1d9e0; stroke-width: .7; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.dots { fill: none; stroke-width: 5; stroke-linecap: round; }`)
	for i, color := range colors {
		d.printf(".s%d { stroke: %s; }", i, color.light)
	}
	d.printf(`@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.small { fill: #9198a1; }
.back { fill: #010409; }
.panel { fill: #0d1117; stroke: #3d444d; }
.grid { stroke: #3d444d; }`)
	for i, color := range colors {
		d.printf(".s%d { stroke: %s; }", i, color.dark)
	}
	d.printf("}\n</style>")
}

// number writes a coordinate.
func number(value float64) string {
	return strconv.FormatFloat(math.Round(value*10)/10, 'f', -1, 64)
}

// shorten cuts a text to a number of letters.
func shorten(text string, letters int) string {
	if len(text) <= letters {
		return text
	}
	return text[:max(0, letters-1)] + "…"
}

func escape(text string) string {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(text)) // a strings.Builder cannot fail
	return escaped.String()
}
