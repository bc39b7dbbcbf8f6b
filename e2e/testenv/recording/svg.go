// SPDX-License-Identifier: Apache-2.0

package recording

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// motion is how long the animation lasts at most: what moves by itself for longer needs a control to stop it (WCAG 2.2.2).
	motion = 5 * time.Second
	// typing is how long a command is typed, and longestPause how much of a wait is shown, before both are scaled to motion.
	typing       = 700 * time.Millisecond
	longestPause = 300 * time.Millisecond

	lineHeight  = 20.0
	charWidth   = 8.4 // of a monospaced font of that size; textLength stretches each line to it
	margin, bar = 16.0, 30.0
)

// colours are the classes of the SGR parameters that the plugin uses.
var colours = map[string]string{"31": "red", "32": "green", "33": "yellow", "35": "purple"}

const style = `
    text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; fill: #1f2328; white-space: pre; }
    .window { fill: #f6f8fa; stroke: #d1d9e0; }
    .dot { fill: #d1d9e0; }
    .title { font: 13px system-ui, sans-serif; fill: #59636e; }
    .command { font-weight: 600; }
    .red { fill: #a40e26; }
    .green { fill: #116329; }
    .yellow { fill: #7d4e00; }
    .purple { fill: #6639ba; }
    .passing { opacity: 0; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .window { fill: #0d1117; stroke: #3d444d; }
      .dot { fill: #3d444d; }
      .title { fill: #9198a1; }
      .red { fill: #ff9492; }
      .green { fill: #3fb950; }
      .yellow { fill: #e3b341; }
      .purple { fill: #d2a8ff; }
    }
    @media (prefers-reduced-motion: no-preference) {
      .line { animation: show 1ms linear backwards; }
      .command { animation: type 1s steps(40) backwards; }
      .passing { animation: pass 1s linear; }
    }
    @keyframes show { from { opacity: 0; } }
    @keyframes type { from { clip-path: inset(0 100% 0 0); } }
    @keyframes pass { from { opacity: 1; } to { opacity: 1; } }
`

// row is a text at a line of the drawing, shown at a time of the animation.
type row struct {
	line int
	at   time.Duration
	// till is when it disappears; zero where it stays.
	till time.Duration
	// typed is how long it takes to appear, character by character; zero for at once.
	typed   time.Duration
	content []span
}

// SVG draws the session. Without animation, as where the reader prefers less motion, it shows the last screen.
func (r *Recording) SVG() ([]byte, error) {
	rows, height, err := r.rows()
	if err != nil {
		return nil, err
	}
	width := 2*margin + float64(r.Width)*charWidth
	total := bar + 2*margin + float64(height)*lineHeight
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]g %[2]g" width="%[1]g" height="%[2]g" role="img" aria-labelledby="title description">
  <title id="title">%[3]s</title>
  <desc id="description">A recording of commands at a terminal, from a run of the tests.</desc>
  <style>%[4]s  </style>
  <rect class="window" x="0.5" y="0.5" width="%[5]g" height="%[6]g" rx="8"/>
`, width, total, escaped(r.Title), style, width-1, total-1)
	for i := range 3 {
		fmt.Fprintf(&out, "  <circle class=\"dot\" cx=\"%d\" cy=\"16\" r=\"5\"/>\n", 20+18*i)
	}
	fmt.Fprintf(&out, "  <text class=\"title\" x=\"%g\" y=\"21\" text-anchor=\"middle\">%s</text>\n", width/2, escaped(r.Title))
	for _, row := range rows {
		out.WriteString(row.svg())
	}
	out.WriteString("</svg>\n")
	return []byte(out.String()), nil
}

func (r row) svg() string {
	length := utf8.RuneCountInString(text(r.content))
	class, timing := "line", "animation-delay:"+seconds(r.at)
	switch {
	case r.till > 0:
		class, timing = "passing", timing+";animation-duration:"+seconds(r.till-r.at)
	case r.typed > 0:
		class, timing = "command", timing+";animation-duration:"+seconds(r.typed)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "  <text class=%q x=\"%g\" y=\"%g\" textLength=\"%.1f\" style=%q>", class, margin, bar+margin+float64(r.line+1)*lineHeight-5, float64(length)*charWidth, timing)
	for _, s := range r.content {
		if colour := colours[s.colour]; colour != "" {
			fmt.Fprintf(&out, "<tspan class=%q>%s</tspan>", colour, escaped(s.text))
		} else {
			out.WriteString(escaped(s.text))
		}
	}
	out.WriteString("</text>\n")
	return out.String()
}

func escaped(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(text)) // never fails into a strings.Builder
	return out.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

// rows returns the texts of the drawing, and the number of its lines.
func (r *Recording) rows() (rows []row, height int, err error) {
	shown, scale := r.timeline()
	changes := map[int][]row{} // by the line of the screen
	screen, err := r.play(func(at time.Duration, line int, content []span) {
		if before := changes[line]; len(before) > 0 && text(before[len(before)-1].content) == text(content) {
			return
		}
		changes[line] = append(changes[line], row{at: shown[at], content: slices.Clone(content)})
	})
	if err != nil {
		return nil, 0, err
	}
	for line, final := range screen {
		wrapped := wrap(final, r.Width)
		for i, change := range changes[line] {
			last := i == len(changes[line])-1
			if !last {
				if change.till = changes[line][i+1].at; change.till <= change.at {
					continue // it is never seen
				}
			}
			for n, content := range wrap(change.content, r.Width) {
				if strings.TrimSpace(text(content)) == "" || n >= len(wrapped) {
					continue
				}
				drawn := row{line: height + n, at: change.at, till: change.till, content: content}
				if last && strings.HasPrefix(text(final), Prompt) {
					drawn.typed = time.Duration(float64(typing) * scale)
				}
				rows = append(rows, drawn)
			}
		}
		if line < len(screen)-1 || len(final) > 0 {
			height += len(wrapped)
		}
	}
	return rows, height, nil
}

// timeline returns when the animation shows the events of each time, and by how much it is faster than waits of longestPause.
func (r *Recording) timeline() (shown map[time.Duration]time.Duration, scale float64) {
	shown = map[time.Duration]time.Duration{}
	var last, now time.Duration
	for _, event := range r.Events {
		now += min(event.At-last, longestPause)
		last = event.At
		if _, known := shown[last]; !known {
			shown[last] = now
		}
		if strings.HasPrefix(event.Text, Prompt) {
			now += typing
		}
	}
	scale = min(1, float64(motion)/float64(max(now, 1)))
	for at, d := range shown {
		shown[at] = time.Duration(float64(d) * scale)
	}
	return shown, scale
}

// wrap breaks a line at spaces, so that no part is longer than the width; a longer word is broken too.
func wrap(line []span, width int) (parts [][]span) {
	for {
		whole := []rune(text(line))
		if len(whole) <= width {
			return append(parts, line)
		}
		end := width
		for i := width; i > width/2; i-- {
			if whole[i] == ' ' {
				end = i
				break
			}
		}
		var head []span
		head, line = split(line, end)
		rest := text(line)
		_, line = split(line, len(rest)-len(strings.TrimLeft(rest, " ")))
		parts = append(parts, head)
	}
}

// split cuts a line after a number of characters.
func split(line []span, at int) (head, rest []span) {
	for _, s := range line {
		runes := []rune(s.text)
		n := min(at, len(runes))
		at -= n
		if n > 0 {
			head = append(head, span{string(runes[:n]), s.colour})
		}
		if n < len(runes) {
			rest = append(rest, span{string(runes[n:]), s.colour})
		}
	}
	return head, rest
}
